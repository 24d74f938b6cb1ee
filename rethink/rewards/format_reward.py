"""Format rewards: the paper's (DeepSeek-R1, arXiv 2501.12948, 2.2.2), a soft one for small models, two more in use.

The paper asks for `<think> … </think> <answer> … </answer>` and does not say more. Our rule: each of the four tags
exactly once, in this order, with nothing but white space before, between and after the two pairs. What they enclose may
be anything, also nothing. The prefill that began the assistant's turn counts as part of it; the rest of the prompt does
not, so tags that the prompt shows earn nothing.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field

from rethink.model.text.thoughts import ANSWER, END_ANSWER, END_THINK, THINK, parse_completion
from rethink.rewards.builtin import PartContext
from rethink.rewards.outcome import PartFunction
from rethink.types import Completion, Problem, Prompt

TAGS = (THINK, END_THINK, ANSWER, END_ANSWER)
STEPS_WANTED = 3

_STEP = re.compile(r"Step \d+:|^\d+\.|\n[-*]|First,|Second,|Next,|Finally,")
Style = Literal["think-answer", "think-text"]


def format_part(
    context: PartContext,
    *,
    style: Style = "think-answer",
    code: Annotated[str, Field(pattern=r"^[A-Za-z0-9+#_.-]{1,30}$")] | None = None,
) -> PartFunction:
    """The part `format`: 1 or 0.

    `style`: `think-answer` is the paper's; `think-text` asks for one thought at the beginning and leaves the rest free.
    `code`: the answer must also hold a fenced block of that language.
    """

    def score(problem: Problem, prompt: Prompt, completion: Completion) -> float:
        kept = well_formed(prompt.prefill + completion.text, style)
        return float(kept and (code is None or has_code(prompt.prefill + completion.text, code)))

    return score


def soft_format_part(context: PartContext) -> PartFunction:
    """The part `format-soft`: a quarter for each of the four tags that occurs exactly once."""

    def score(problem: Problem, prompt: Prompt, completion: Completion) -> float:
        return tag_share(prompt.prefill + completion.text)

    return score


def steps_part(context: PartContext) -> PartFunction:
    """The part `steps`: marks of steps (`Step 1:`, `1.`, a dash, `First,`), up to three, as a share of three."""

    def score(problem: Problem, prompt: Prompt, completion: Completion) -> float:
        return step_share(prompt.prefill + completion.text)

    return score


def well_formed(turn: str, style: Style = "think-answer") -> bool:
    """Whether a turn keeps the format."""
    if style == "think-answer":
        return parse_completion(turn).well_formed
    opened, closed = turn.count(THINK), turn.count(END_THINK)
    return opened == closed == 1 and turn.startswith(THINK) and END_THINK in turn


def has_code(turn: str, language: str) -> bool:
    """Whether the answer (or the whole turn, without one) holds a fenced block of the language that ends."""
    answer = parse_completion(turn).answer
    text = turn if answer is None else answer
    start = text.find(f"```{language}\n")
    return start >= 0 and text.find("```", start + 3) >= 0


def tag_share(turn: str) -> float:
    """Share of the four tags that occur exactly once."""
    return sum(turn.count(tag) == 1 for tag in TAGS) / len(TAGS)


def step_share(turn: str) -> float:
    """Marks of steps, as a share of `STEPS_WANTED`, at most 1."""
    return min(1.0, sum(1 for _ in _STEP.finditer(turn)) / STEPS_WANTED)
