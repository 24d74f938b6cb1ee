"""The parts that compare an answer with the gold by themselves: `math` and `number`."""

from __future__ import annotations

import re

from rethink.model.text.thoughts import after_thought
from rethink.rewards.builtin import PartContext
from rethink.rewards.extract import AnswerRule, extract_answer, find_gold
from rethink.rewards.judges import reward_judges
from rethink.rewards.outcome import PartFunction, placed
from rethink.tasks.answers import boxed_list
from rethink.tasks.checkers import exact_number
from rethink.tasks.choices import read_choice
from rethink.tasks.mathematics import math_equal
from rethink.types import Completion, Problem, Prompt

_SINGLE_CHOICE = re.compile(r"\(?[A-J]\)?\.?")


def bare_gold(gold: str) -> str | None:
    r"""The answer in a gold that is written out: the last box, what follows `####` or "answer is"; else all of it."""
    if "\\boxed" in gold or "\\fbox" in gold:
        found = boxed_list(gold)
        return None if found is None else found[1]
    return find_gold(gold)


def math_part(context: PartContext, *, answer: AnswerRule = "auto") -> PartFunction:
    """The part `math`: 1 where the answer, found by the rule `answer`, equals the gold; None where none can be read."""

    def score(problem: Problem, prompt: Prompt, completion: Completion) -> float | None:
        gold = None if problem.answer is None else bare_gold(problem.answer)
        if not gold:
            return None
        said = extract_answer(completion.text, prompt.prefill, answer)
        if _SINGLE_CHOICE.fullmatch(gold.strip()):
            said = _choice(said, prompt.prefill + completion.text if answer == "auto" else "")
        return math_equal(said or "", gold)

    return placed(score, lambda: math_equal("x+1", "1+x"))


def _choice(said: str | None, turn: str) -> str | None:
    """The letter that is chosen; None where several are, and the answer itself where there is no letter in it."""
    chosen = None if said is None else read_choice(said)
    if chosen is None:
        chosen = read_choice(after_thought(turn, unended=True) or "")
    return said if chosen is None else chosen or None


def number_part(context: PartContext, *, answer: AnswerRule = "auto") -> PartFunction:
    """The part `number`: 1 where the answer is exactly the gold number; None where the gold is none."""

    def score(problem: Problem, prompt: Prompt, completion: Completion) -> float | None:
        gold = None if problem.answer is None else bare_gold(problem.answer)
        return exact_number(extract_answer(completion.text, prompt.prefill, answer) or "", gold)

    return score


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
    judges = reward_judges(context.judges)

    def score(problem: Problem, prompt: Prompt, completion: Completion) -> float | None:
        said = extract_answer(completion.text, prompt.prefill, context.answer)
        return judges[problem.task](problem, said or "")

    return score
