r"""The answer in a completion, by the rule that the recipe names: for rewards and for `rethink eval`.

The rules look at what is said after the thought (`</think>`), where there is one:

- `answer-tag`: inside the last `<answer>…</answer>`; of that the last box, where there is one;
- `boxed`: the last `\boxed{…}` that is not empty;
- `hash`: what follows the last `####`, to the end of its line (GSM8K's own form);
- `last-number`: the last number, with all that belongs to it (`rethink.tasks.last_value`);
- `text`: everything;
- `auto`: inside `<answer>` where there is one, else in all: whichever comes last of a box, `####`, and words such as
  "the answer is"; else the whole, where it is one expression; else the last formula between dollar signs or the last
  number.

Only the last `SEARCHED` characters are searched, each a bounded number of times: a completion of any length costs no
more than one of that length, and its copying.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from rethink.model.text.thoughts import THINK, after_thought, parse_completion
from rethink.tasks.answers import boxed_list, is_blank, last_boxed, last_number
from rethink.tasks.choices import choice_letter as choice_letter
from rethink.tasks.last_value import SEARCHED, with_changing_words
from rethink.tasks.numbers import read_quantity

AnswerRule = Literal["auto", "answer-tag", "boxed", "hash", "last-number", "text"]

WHOLE = 600
"""Characters up to which a text without words is an answer as a whole."""

CUE_REST = 600
"""Characters after words such as "the answer is" in which the answer is looked for."""
MAX_CUES = 16
"""How many of the last places with such words are tried."""

_CUE = re.compile(
    r"(?:\b(?:answer|réponse|respuesta|Antwort)[\s*]{0,8}(?:is|=|:|：|are|est|es|ist)[\s*]{0,8}[:：]?"
    r"|(?:答案|结果)[\s*]{0,8}(?:应该?)?(?:[是为為]|等于|=|:|：)[\s*]{0,8}[:：]?|^A:)[\s*]{0,8}",
    re.IGNORECASE | re.MULTILINE,
)
_FORMULA = re.compile(
    r"\$\$([^$]{1,600})\$\$|(?<!\\)\$((?:\\\$|[^$\n]){1,600})(?<!\\)\$|\\\(((?:(?!\\\()[^$\n]){1,600}?)\\\)"
    r"|\\\[((?:(?!\\\[)[^$]){1,600}?)\\\]"
)
_SENTENCE_END = re.compile(r"(?<!\d)\.(?=\s|$)|(?<=\d)\.(?=\s+[A-Z]|\s*$)|[\n。！？]")
_SPECIAL = re.compile(r"<\|[a-z_]{1,20}\|>|</s>")
_PROSE = re.compile(r"\b[^\W\d_]{3,}\s+[^\W\d_]{2,}|[\u3040-\u30ff\u4e00-\u9fff]{2}")
_WORD = re.compile(r"\b[^\W\d_]{3,}")
_SPOKEN_WORD = re.compile(
    r"(?<![\\A-Za-z])(?!(?:sin|cos|tan|cot|sec|csc|log|ln|exp|sqrt|pi|mod|max|min)\b)[^\W\d_]{2,}"
)
_MONEY = re.compile(r"\d[\d.,]*(?:,\s*|\s+[^\W\d_]{2,}\b.*)", re.DOTALL)
_JOINED = re.compile(r"\s*(?:,|,?\s*(?:and|or))\s*")
_RAISED = re.compile(r"\$(\s*\^\s*(?:\{\s*)?(?:\d|\\circ)(?:\s*\})?\s*)\$")
_REASON = re.compile(
    r"(?<=.)[,;]?\s+(?:because|since|given that|due to|as (?:he|she|it|we|they|there|the))\b|[，,]?\s*(?:因为|由于)",
    re.IGNORECASE,
)
_PIECES = re.compile(r"\s*[,;]\s*(?:and\s+)?|\s+(?:and|or)\s+")
_ENTRIES = re.compile(r"\s*(?:;|,(?!\d)|\n|(?<=\w)\.(?=\s+[^\W\d_]))\s*(?:(?:and|or)\s+)?|\s+(?:and|or)\s+")
_TELLS = (
    r"(?!(?:so|then|now|left|total|sum|altogether|remains?|in|on|at|by|of|after|before|since|from|if|when|with|out"
    r"|he|she|it|they|we|i|there|which)\b)"
)
_ENTRY = re.compile(
    rf"(?:[^\W\d_]+ \d{{1,2}}\s*[:=]\s*)?(?:{_TELLS}[^\W\d_][\w'’]*+[ :=]*+){{0,3}}"
    rf"(?P<value>[-+$€£]?\d(?:[\d,./]*\d)?)%?(?:\s+{_TELLS}[^\W\d_]+){{0,2}}[\s.]*",
    re.IGNORECASE,
)
"""A value with a short label, before or behind it: no word that tells what happened."""


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
        tagged = parse_completion(text, prefill).answer
        return None if tagged is None else _unboxed(tagged)
    turn = prefill + text
    if rule == "auto":
        return find_answer(turn).text
    spoken = after_thought(turn, unended=True) or ""
    if rule == "text":
        return spoken.strip() or None
    find = {"boxed": last_boxed, "hash": after_hash, "last-number": last_number}[rule]
    return find(spoken[-SEARCHED:]) or None


def after_hash(text: str) -> str | None:
    """What follows the last `####`, to the end of its line; None without one."""
    _, mark, tail = text.rpartition("####")
    return tail.lstrip(" :#").split("\n", 1)[0].strip() or None if mark else None


def find_answer(turn: str) -> Found:
    """The rule `auto` on a whole turn."""
    said = after_thought(turn)
    if said is None:  # only an answer in its tags counts
        return _read_tagged(_tagged(turn))
    spoken = said[-SEARCHED:]
    tagged = _tagged(spoken)
    if tagged is not None:
        return _read_tagged(tagged)
    before = _SPECIAL.split(spoken, maxsplit=1)[0]
    return _read(before if before.strip() else spoken)


def find_gold(gold: str) -> str | None:
    """The answer in a gold that is written out: what `auto` finds, but a short text without a sentence stays whole."""
    return _read(gold[-SEARCHED:], whole=not _has_prose(gold[:WHOLE])).text


def _read_tagged(tagged: str | None) -> Found:
    if not tagged or len(tagged) > SEARCHED:
        return Found(tagged, "answer-tag")
    return Found(_read(tagged, whole="\n" in tagged or len(tagged) > WHOLE).text or tagged, "answer-tag")


def _read(text: str, *, whole: bool = False) -> Found:
    """The answer in a text without tags; `whole`: one without a mark is the answer, unchanged."""
    # The last of the marks wins: what is said last is the answer.
    marked = [found for found in (_box(text), _hash(text), _cue(text)) if found is not None]
    if marked:
        _, rule, answer = max(marked)
        return Found(answer, rule)
    text = text.strip().removeprefix("→").strip()
    if whole or _is_list(text) or (len(text) <= WHOLE and not _is_sentence(text)):
        return Found(text or None, "text")
    return Found(*_last_value(text))


def _is_sentence(text: str) -> bool:
    """Whether words beside the mathematics say something: `He has 15 cows.`, `So x = 7.`; not `15 cows`, `June`."""
    if _has_prose(text) and not _is_quantity(text):
        return True
    rest = _FORMULA.sub(" ", text)
    if _SPOKEN_WORD.search(_without_commands(rest)) is None or not any(char.isnumeric() for char in text):
        return False
    # A number with its unit or label is read whole, and so is a list of them: it is not its last one.
    return not all(map(_is_quantity, _PIECES.split(text)))


def _is_list(text: str) -> bool:
    """Whether a text is nothing but several values with labels, of which none is the answer: `Tom 7 and Ann 8`."""
    entries = [_ENTRY.fullmatch(entry.strip()) for entry in _ENTRIES.split(text)] if len(text) <= WHOLE else []
    values = {found["value"] for found in entries if found is not None}
    return len(values) > 1 and None not in entries


def _is_quantity(text: str) -> bool:
    return read_quantity(text) is not None


def _has_prose(text: str) -> bool:
    """Whether there are words beside the mathematics: two in a row, or one beside a formula in dollar signs."""
    plain = _without_commands(text)
    if _PROSE.search(plain):
        return True
    rest, formulas = _FORMULA.subn(" ", text)
    return formulas > 0 and _WORD.search(_without_commands(rest)) is not None


def _last_value(text: str) -> tuple[str | None, str]:
    """The last formula, or a number after it."""
    text = _RAISED.sub(r"\1", text)  # 12 cm$^2$
    end = 0
    run: list[str] = []
    span = (0, 0)
    for found in _FORMULA.finditer(text):
        inside = next(group for group in found.groups() if group is not None)
        if _is_money(inside) and found.group().startswith("$"):
            continue
        if not (run and _JOINED.fullmatch(text, end, found.start())):
            run, span = [], found.span()
        run.append(inside.strip())
        end = found.end()
    number = last_number(text[end:])
    if number is not None or not run:
        return number, "last-number"
    return ", ".join(run) if len(run) > 1 else with_changing_words(text, span, run[0]), "formula"


def _is_money(inside: str) -> bool:
    """Whether two dollar signs belong to two prices: `$5 and $6`."""
    return _MONEY.fullmatch(_without_commands(inside)) is not None


def _without_commands(text: str) -> str:
    return re.sub(r"\\(?:text|mathrm|mbox|textbf)\s*\{[^{}]{0,600}\}|\\[A-Za-z]{1,40}", " ", text)


def _tagged(text: str) -> str | None:
    return parse_completion(text.replace(THINK, "")).answer


def _unboxed(tagged: str) -> str:
    """What a box in the tags holds; the whole where there is none."""
    found = boxed_list(tagged) if len(tagged) <= SEARCHED else None
    return tagged if found is None else found[1].strip()


def _box(text: str) -> tuple[int, str, str] | None:
    """The last box: where it ends, so that words within it (`\\boxed{The answer is 5.}`) are its own."""
    found = boxed_list(text)
    if found is None:
        return None
    start, content = found
    said = _cue(content)
    return start + len(content), "boxed", content.strip() if said is None else said[2]


def _hash(text: str) -> tuple[int, str, str] | None:
    answer = after_hash(text)
    return None if answer is None else (text.rfind("####"), "hash", answer)


def _cue(text: str) -> tuple[int, str, str] | None:
    for found in list(_CUE.finditer(text))[: -MAX_CUES - 1 : -1]:
        answer = _first_answer(text[found.end() : found.end() + CUE_REST])
        if answer:
            return found.start(), "cue", answer
    return None


def _first_answer(rest: str) -> str | None:
    """What an "answer is" is followed by: the rest of the sentence where it is no prose, else its last value."""
    rest = rest.lstrip(" \t\"'\\*") if rest.lstrip().startswith(('\\"', '"', "'", "*")) else rest.lstrip()
    begins = _FORMULA.match(rest)
    if begins and not _is_money(begins.group(2) or ""):
        return _last_value(rest[: _run_of_formulas(rest, begins.end())])[0]
    end = _SENTENCE_END.search(rest)
    sentence = rest[: end.start()] if end else rest
    if (reason := _REASON.search(sentence)) and any(char.isnumeric() for char in sentence[: reason.start()]):
        sentence = sentence[: reason.start()]
    if not _PROSE.search(_without_commands(sentence)):
        sentence = sentence.strip(" \"'*")
        return None if is_blank(sentence.partition("boxed")[2]) and "boxed" in sentence else sentence or None
    return _last_value(sentence)[0]


def _run_of_formulas(text: str, end: int) -> int:
    """Where formulas that "and" or a comma joins end."""
    while (between := _JOINED.match(text, end)) and (following := _FORMULA.match(text, between.end())):
        end = following.end()
    return end
