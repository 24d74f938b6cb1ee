r"""The answer in a completion, by the rule that the recipe names. Every search is linear in the text.

The rules look at what is said after the thought (`</think>`), where there is one:

- `answer-tag`: inside the last `<answer>…</answer>`;
- `boxed`: the last `\boxed{…}`;
- `hash`: what follows the last `####`, to the end of its line (GSM8K's own form);
- `last-number`: the last number;
- `text`: everything;
- `auto`: `<answer>` where there is one; else whichever comes last of a box, `####`, and words such as "the answer is";
  else the last formula between dollar signs; else the whole, where it is one expression; else the last number.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from rethink.model.chat import END_THINK, THINK, parse_completion
from rethink.tasks.answers import boxed_list, last_boxed, last_number

AnswerRule = Literal["auto", "answer-tag", "boxed", "hash", "last-number", "text"]

SEARCHED = 20_000
"""Characters at the end of a completion in which `auto` searches."""

WHOLE = 600
"""Characters up to which a text without words is an answer as a whole."""

_CUE = re.compile(
    r"(?:\b(?:answer|réponse|respuesta|Antwort|答案)[\s*]{0,8}(?:is|=|:|：|are|est|es|ist|是|为)[\s*]{0,8}:?|^A:)[\s*]{0,8}",
    re.IGNORECASE | re.MULTILINE,
)
_FORMULA = re.compile(
    r"\$\$([^$]{1,600})\$\$|(?<!\\)\$((?:\\\$|[^$\n]){1,600})(?<!\\)\$|\\\(([^$\n]{1,600}?)\\\)|\\\[([^$]{1,600}?)\\\]"
)
_SENTENCE_END = re.compile(r"(?<!\d)\.(?=\s|$)|(?<=\d)\.(?=\s+[A-Z]|\s*$)|\n")
_SPECIAL = re.compile(r"<\|[a-z_]{1,20}\|>|</s>")
_PROSE = re.compile(r"\b[^\W\d_]{3,}\s+[^\W\d_]{2,}|[\u3040-\u30ff\u4e00-\u9fff]{2}")
_WORD = re.compile(r"\b[^\W\d_]{3,}")
_JOINED = re.compile(r"\s*(?:,|,?\s*(?:and|or))\s*")


@dataclass(frozen=True, slots=True)
class Found:
    """An answer and the rule that found it."""

    text: str | None
    rule: str


def extract_answer(text: str, prefill: str, rule: AnswerRule) -> str | None:
    """What a completion gives as its answer; None where it gives none.

    Args:
        text: the completion.
        prefill: the beginning of the assistant's turn that was part of the prompt.
        rule: where to look.
    """
    if rule == "answer-tag":
        return parse_completion(text, prefill).answer
    turn = prefill + text
    if rule == "auto":
        return find_answer(turn).text
    spoken = turn.rpartition(END_THINK)[2]
    if rule == "boxed":
        return last_boxed(spoken)
    if rule == "hash":
        return after_hash(spoken)
    if rule == "last-number":
        return last_number(spoken)
    return spoken.strip() or None


def after_hash(text: str) -> str | None:
    """What follows the last `####`, to the end of its line; None without one."""
    _, mark, tail = text.rpartition("####")
    return tail.lstrip(" :#").split("\n", 1)[0].strip() or None if mark else None


def find_answer(turn: str) -> Found:
    """The rule `auto` on a whole turn."""
    if THINK in turn and END_THINK not in turn:
        # The thought never ended: only an answer in its tags counts.
        return Found(_tagged(turn), "answer-tag")
    spoken = turn.rpartition(END_THINK)[2][-SEARCHED:]
    tagged = _tagged(spoken)
    if tagged is not None:
        inner = boxed_list(tagged)
        return Found(tagged if inner is None else inner[1].strip(), "answer-tag")
    spoken = _SPECIAL.split(spoken)[0] if _SPECIAL.split(spoken)[0].strip() else spoken
    # The last of the marks wins: what is said last is the answer.
    marked = [found for found in (_box(spoken), _hash(spoken), _cue(spoken)) if found is not None]
    if marked:
        _, rule, answer = max(marked)
        return Found(answer, rule)
    if len(spoken.strip()) <= WHOLE and not _has_prose(spoken):
        return Found(spoken.strip() or None, "text")
    value, how = _last_value(spoken)
    return Found(value, how)


def _has_prose(text: str) -> bool:
    """Whether there are words beside the mathematics: two in a row, or one beside a formula in dollar signs."""
    plain = _without_commands(text)
    if _PROSE.search(plain):
        return True
    rest, formulas = _FORMULA.subn(" ", text)
    return formulas > 0 and _WORD.search(_without_commands(rest)) is not None


def _last_value(text: str) -> tuple[str | None, str]:
    """The last formula, or a number that stands after it."""
    end = 0
    formula: str | None = None
    for found in _FORMULA.finditer(text):
        inside = next(group for group in found.groups() if group is not None).strip()
        joined = formula is not None and _JOINED.fullmatch(text, end, found.start())
        formula = f"{formula}, {inside}" if joined else inside
        end = found.end()
    number = last_number(text[end:])
    if number is not None or formula is None:
        percent = "%" if number and text[end:].rpartition(number)[2].lstrip().startswith(("%", "\\%")) else ""
        return (None if number is None else number + percent), "last-number"
    return formula, "formula"


def _without_commands(text: str) -> str:
    return re.sub(r"\\(?:text|mathrm|mbox|textbf)\s*\{[^{}]*\}|\\[A-Za-z]+", " ", text)


def _tagged(text: str) -> str | None:
    return parse_completion(text.replace(THINK, "")).answer


def _box(text: str) -> tuple[int, str, str] | None:
    found = boxed_list(text)
    return None if found is None else (found[0], "boxed", found[1].strip())


def _hash(text: str) -> tuple[int, str, str] | None:
    answer = after_hash(text)
    return None if answer is None else (text.rfind("####"), "hash", answer)


def _cue(text: str) -> tuple[int, str, str] | None:
    for found in reversed(list(_CUE.finditer(text))):
        rest = text[found.end() : found.end() + 2000]
        answer = _first_answer(rest)
        if answer:
            return found.start(), "cue", answer
    return None


def _first_answer(rest: str) -> str | None:
    """What an "answer is" is followed by: the rest of the sentence where it is no prose, else its last value."""
    rest = rest.lstrip(" \t\"'\\*") if rest.lstrip().startswith(('\\"', '"', "'", "*")) else rest.lstrip()
    begins = _FORMULA.match(rest)
    if begins:
        return _last_value(rest[: _run_of_formulas(rest, begins.end())])[0]
    end = _SENTENCE_END.search(rest)
    sentence = rest[: end.start()] if end else rest
    if not _PROSE.search(_without_commands(sentence)):
        return sentence.strip(" \"'*") or None
    return _last_value(sentence)[0]


def _run_of_formulas(text: str, end: int) -> int:
    """Where formulas that "and" or a comma joins end."""
    while (between := _JOINED.match(text, end)) and (following := _FORMULA.match(text, between.end())):
        end = following.end()
    return end


_CHOICE_CUE = re.compile(r"(?:answer|choice|option|correct)\W{0,3}(?:is|are|:)?\W{0,6}([A-J])(?![\w'])", re.IGNORECASE)
_CHOICE_ALONE = re.compile(r"[\s(*\[\"]*([A-Ja-j])[\s).:*\]\"]*")
_CHOICE_FIRST = re.compile(r"\W{0,4}([A-J])[.):](?:\s|$)")
_CHOICE_ANY = re.compile(r"(?<![\w'])([B-J]|A(?!\s+[a-z]))(?![\w'])")


def choice_letter(text: str) -> str | None:
    """The letter that answers a question of choice.

    Where it stands alone; after "answer is"; first, with a mark (`B. Because …`); else the last one by itself.
    """
    spoken = text.rpartition(END_THINK)[2][-SEARCHED:]
    alone = _CHOICE_ALONE.fullmatch(spoken)
    if alone:
        return alone.group(1).upper()
    cues = [found for found in _CHOICE_CUE.finditer(spoken) if found.group(1).isupper()]
    if cues:
        return cues[-1].group(1)
    first = _CHOICE_FIRST.match(spoken)
    if first:
        return first.group(1)
    letters = _CHOICE_ANY.findall(spoken)
    return letters[-1] if letters else None


def names_several_choices(text: str) -> bool:
    """Whether a text names more than one letter, and not one first with a mark (`B. Because A …`)."""
    return len(set(_CHOICE_ANY.findall(text))) > 1 and _CHOICE_FIRST.match(text) is None
