"""The parts that compare an answer with the gold by themselves: `math`, `number`, and a task of reasoning-gym."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from rethink.rewards.builtin import PartContext
from rethink.rewards.extract import AnswerRule, choice_letter, extract_answer, find_answer, names_several_choices
from rethink.rewards.outcome import PartFunction
from rethink.tasks.answers import boxed_list
from rethink.tasks.checkers import exact_number
from rethink.tasks.judging import GymJudge, make_judge
from rethink.tasks.mathematics import math_equal
from rethink.types import Completion, Problem, Prompt

SHORT = 40
"""Characters of an answer that could be a choice."""
_SINGLE_CHOICE = re.compile(r"\(?[A-J]\)?\.?")


def bare_gold(gold: str) -> str | None:
    r"""The answer in a gold that is written out: the last box, what follows `####` or "answer is"; else all of it."""
    if "\\boxed" in gold or "\\fbox" in gold:
        found = boxed_list(gold)
        return None if found is None else found[1]
    return find_answer(gold).text


def math_part(context: PartContext, *, answer: AnswerRule = "auto") -> PartFunction:
    """The part `math`: 1 where the answer, found by the rule `answer`, equals the gold; None where none can be read."""

    def score(problem: Problem, prompt: Prompt, completion: Completion) -> float | None:
        gold = None if problem.answer is None else bare_gold(problem.answer)
        if not gold:
            return None
        said = extract_answer(completion.text, prompt.prefill, answer)
        if answer == "auto" and _SINGLE_CHOICE.fullmatch(gold.strip()):
            said = _choice(said, prompt.prefill + completion.text)
        return math_equal(said or "", gold)

    return _warm(score, lambda: math_equal("x+1", "1+x"))


def _choice(said: str | None, turn: str) -> str | None:
    """The letter that is chosen; None where the answer names several."""
    if said is None or (choice_letter(said) is None and len(said) < SHORT):
        return choice_letter(turn)
    return said if names_several_choices(said) else choice_letter(said)


def number_part(context: PartContext, *, answer: AnswerRule = "auto") -> PartFunction:
    """The part `number`: 1 where the answer is exactly the gold number; None where the gold is none."""

    def score(problem: Problem, prompt: Prompt, completion: Completion) -> float | None:
        gold = None if problem.answer is None else bare_gold(problem.answer)
        return exact_number(extract_answer(completion.text, prompt.prefill, answer) or "", gold)

    return score


def gym_part(context: PartContext, *, task: str) -> PartFunction:
    """A task of reasoning-gym: what its own scorer says, 0 to 1, of the answer in `<answer>` or else of everything.

    The entry is made again from `task`, `index` and `params` in the problem's metadata where they stand there (as in
    a run's rollouts); else it is the row itself: question, answer and `metadata`.
    """
    from rethink.tasks.gym import make_dataset

    made = GymJudge()
    dataset: dict[str, Any] = {}

    def score(problem: Problem, prompt: Prompt, completion: Completion) -> float | None:
        said = extract_answer(completion.text, prompt.prefill, "answer-tag")
        said = extract_answer(completion.text, prompt.prefill, "text") if said is None else said
        if said is None:
            return 0.0
        metadata = problem.metadata
        if {"task", "index", "params"} <= set(metadata) and metadata["task"] == task:
            return made(problem, said)
        if not dataset:
            dataset["it"] = make_dataset(task, {})
        entry = {"question": problem.question, "answer": problem.answer, "metadata": metadata.get("metadata", metadata)}
        return float(dataset["it"].score_answer(said, entry))

    make_dataset(task, {})  # an unknown name is an error now
    return _warm(score, made.warm)


def judge_of(context: PartContext) -> PartFunction:
    """What `accuracy` says, for parts that build on it.

    Without a task (`rethink score`): the verdict that a row records as `correct`, else what `math` says.
    """
    if not context.judges:
        mathematics = math_part(context)

        def judge_row(problem: Problem, prompt: Prompt, completion: Completion) -> float | None:
            recorded = problem.metadata.get("correct")
            return float(recorded) if isinstance(recorded, bool) else mathematics(problem, prompt, completion)

        return judge_row
    judges = {task: make_judge(judge) for task, judge in context.judges.items()}

    def score(problem: Problem, prompt: Prompt, completion: Completion) -> float | None:
        said = extract_answer(completion.text, prompt.prefill, context.answer)
        return judges[problem.task](problem, said or "")

    return score


def _warm(score: PartFunction, load: Callable[[], object]) -> PartFunction:
    score.warm = load  # type: ignore[attr-defined]
    return score
