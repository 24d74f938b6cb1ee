r"""Finding the answer in what a model said, by the form that a benchmark asks for. Linear in the text.

Only what follows the thought counts: the text after the last `</think>`, and of that the inside of the last
`<answer>` where there is one. A thought that never ended holds no answer.
"""

from __future__ import annotations

import re

from rethink.model.text.thoughts import ANSWER, END_ANSWER, after_thought
from rethink.rewards.extract import extract_answer, find_answer
from rethink.tasks.answers import last_boxed
from rethink.tasks.choices import LETTERS, choice_letter

MAX_ANSWER = 400
"""Characters of a phrase that is taken as an answer; longer ones are no answer."""
# "答案：是", "答案是否" (the answer is no), "答案是" (yes).
_YES_NO = re.compile(r"答案(?:[:：]|是[:：]?|为[:：]?)?[\s*_“\"]{0,4}(不是|否|是)")
_BARE_YES_NO = re.compile(r"[\s*_“\"]{0,4}(不是|否|是)")
_LINE = re.compile(r"(?i)(?<!\w)answer[*_]{0,2}\s{0,4}[::：][*_]{0,2}[ \t]{0,4}([^\n]+)")
_PHRASES = ("answer is", "答案是", "答案为", "答案：", "答案:")


def spoken(turn: str) -> str | None:
    """What the assistant says after its thought; None where the thought did not end."""
    after = after_thought(turn)
    if after is None:
        return None
    closed = after.rfind(END_ANSWER)
    opened = after.rfind(ANSWER, 0, closed) if closed >= 0 else -1
    return after[opened + len(ANSWER) : closed].strip() if opened >= 0 else after.strip()


def math_answer(turn: str) -> str | None:
    """What the reward `math` takes for the answer under its rule `auto`."""
    return find_answer(turn).text or None


def tagged_answer(turn: str) -> str | None:
    """What the reward `gym` takes for the answer: inside `<answer>`; without the tags as `math_answer`."""
    return extract_answer(turn, "", "answer-tag") or math_answer(turn)


def line_answer(turn: str) -> str | None:
    """What follows the last `Answer:` on its line; a short reply without one is the answer itself."""
    said = spoken(turn)
    if said is None:
        return None
    lines = [match.group(1) for match in _LINE.finditer(said)]
    answer = lines[-1] if lines else _after_phrase(said) or (said if "\n" not in said else "")
    answer = answer.strip().strip("*_").strip()
    return answer if answer and len(answer) <= MAX_ANSWER else None


def letter_answer(turn: str, options: str = LETTERS) -> str | None:
    """The letter of a multiple-choice answer, one of `options`: see `rethink.tasks.choices`."""
    said = spoken(turn)
    return None if said is None else choice_letter(said, options)


def yes_no_answer(turn: str) -> str | None:
    """`是` or `否` after the last "答案", or as the whole reply."""
    said = spoken(turn)
    if said is None:
        return None
    found = [match.group(1) for match in _YES_NO.finditer(said)] or [
        m.group(1) for m in [_BARE_YES_NO.match(said)] if m
    ]
    if found:
        return "是" if found[-1] == "是" else "否"
    box = last_boxed(said)
    return box.strip() if box is not None and box.strip() in ("是", "否") else None


def _after_phrase(said: str) -> str | None:
    lowered = said.lower()
    if len(lowered) != len(said):  # rare letters change their length; then positions do not agree
        lowered = said
    found = max(((lowered.rfind(phrase), len(phrase)) for phrase in _PHRASES), key=lambda place: place[0])
    if found[0] < 0:
        return None
    answer = said[found[0] + found[1] :].lstrip(" :：*_\t").split("\n", 1)[0].strip().rstrip(".。*_ ").strip()
    if answer.startswith("$") and answer.endswith("$"):
        answer = answer.strip("$").strip()
    return answer if answer and len(answer) <= MAX_ANSWER else None
