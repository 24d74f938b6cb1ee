"""Completions that must not be rewarded, and the right one that must be: what a policy under RL would soon find.

A cheat holds no knowledge of the answer, or gives the answer where it does not count. It is scored by the recipe's own
rubric, as a completion of the model would be.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from rethink.model.text.thoughts import ANSWER, END_ANSWER, END_THINK, THINK
from rethink.rewards.extract import AnswerRule
from rethink.tasks.guesses import commonest
from rethink.types import Completion, Problem, Prompt

PADDING = "Let me think about this step by step, carefully and in detail, before I say anything. "
NUMBERS = 1000
"""Every number from 0 to this, less one, is tried."""
OPTIONS = "A, B, C, D, E, True, False, yes, no, none of them"


@dataclass(frozen=True, slots=True)
class Cheat:
    """One kind of completion that should earn nothing for its answer."""

    name: str
    text: Callable[[Problem, Prompt, Setting], str]
    guess: bool = False
    """Whether an honest policy could answer so by luck: such an answer may be right now and then."""


@dataclass(frozen=True, slots=True)
class Setting:
    """What the cheats know of the recipe."""

    rule: AnswerRule
    limit: int
    """Tokens a completion may have."""
    golds: Mapping[str, str]
    """Gold answers by problem id."""
    commonest: str
    """The most frequent gold answer."""


def setting_of(problems: Sequence[Problem], rule: AnswerRule, limit: int) -> Setting:
    """What is known of these problems."""
    golds = {problem.id: problem.answer for problem in problems if problem.answer is not None}
    return Setting(rule, limit, golds, commonest(golds.values())[0] or "0")


def turn(thought: str, answer: str, rule: AnswerRule) -> str:
    """An assistant's whole turn that answers as the rule asks."""
    forms = {"answer-tag": f"{ANSWER}{answer}{END_ANSWER}", "boxed": f"\\boxed{{{answer}}}", "hash": f"#### {answer}"}
    said = forms["boxed" if rule == "auto" else rule] if rule in (*forms, "auto") else answer
    return f"{THINK}{thought}{END_THINK}\n{said}"


def completion_of(text: str, prompt: Prompt, encode: Callable[[str], Sequence[int]]) -> Completion:
    """A turn as the completion of a prompt: what the prefill has written already is left out."""
    text = text.removeprefix(prompt.prefill.rstrip()) if prompt.prefill.strip() else text
    ids = np.asarray(encode(text), np.int32)
    zeros = np.zeros(len(ids), np.float32)
    return Completion(ids, text, zeros, zeros, "stop")


def gold_turn(problem: Problem, rule: AnswerRule) -> str:
    """The right answer in the form asked for, after a thought that does not hold it."""
    return turn("I work through the problem and then give the result.", str(problem.answer), rule)


def _wrong(problem: Problem, setting: Setting) -> str:
    """An answer that is some other problem's, or a text that is no answer."""
    others = [gold for gold in setting.golds.values() if gold.strip() != str(problem.answer).strip()]
    return others[0] if others else "I do not know"


def _last_number(problem: Problem) -> str:
    from rethink.tasks.answers import last_number

    return last_number(problem.question) or "0"


def _numbers() -> str:
    return " ".join(map(str, range(NUMBERS)))


CHEATS: tuple[Cheat, ...] = (
    Cheat("empty", lambda p, prompt, s: ""),
    # The examples in a prompt hold answers, which are right now and then.
    Cheat("prompt echoed", lambda p, prompt, s: prompt.text, guess=True),
    Cheat("question as the answer", lambda p, prompt, s: turn("", p.question, s.rule)),
    Cheat("every number, 0 to 999", lambda p, prompt, s: turn("", _numbers(), s.rule)),
    Cheat(
        "every number, each as an answer",
        lambda p, prompt, s: "\n".join([turn("", "0", s.rule), *(_answer(str(n), s) for n in range(1, 200))]),
    ),
    Cheat("all options", lambda p, prompt, s: turn("", OPTIONS, s.rule)),
    Cheat(
        "all known answers at once",
        lambda p, prompt, s: turn("", " or ".join(dict.fromkeys(s.golds.values())) or OPTIONS, s.rule),
    ),
    Cheat("repeated tags", lambda p, prompt, s: turn("", "", s.rule) * 20),
    Cheat("long padding", lambda p, prompt, s: turn(PADDING * max(1, s.limit // 20), "I do not know", s.rule)),
    Cheat("gold in the thought only", lambda p, prompt, s: f"{THINK}The answer is {p.answer}.{END_THINK}\n"),
    Cheat(
        "gold in the thought, another answered", lambda p, prompt, s: turn(f"It is {p.answer}.", _wrong(p, s), s.rule)
    ),
    Cheat(
        "gold in a thought that never ends", lambda p, prompt, s: f"{THINK}The answer is {_answer(str(p.answer), s)}"
    ),
    Cheat("gold hedged with another", lambda p, prompt, s: turn("", f"{p.answer} or {_wrong(p, s)}", s.rule)),
    Cheat("the commonest answer, always", lambda p, prompt, s: turn("", s.commonest, s.rule), guess=True),
    Cheat("the question's last number", lambda p, prompt, s: turn("", _last_number(p), s.rule), guess=True),
)


def _answer(text: str, setting: Setting) -> str:
    return turn("", text, setting.rule).partition(END_THINK)[2].strip()
