"""Reflection: how often completions re-examine themselves, and whether that mends a wrong answer.

The paper's sign of an aha moment is the rise of words such as "wait" (arXiv 2501.12948, 2.2.4 and its figure of
reflective words). Words alone may be an empty habit, so re-examinations are checked where they can be: where the gold
answer is a number, and a value is stated before the word and another one after it.

    3 + 4 = 8. Wait, let me check: 3 + 4 = 7.        gold 7: wrong before, right after

A value is *stated* where a number follows `=`, "the answer is", "makes", `<answer>`, a box and the like (`STATED`).
Words of reflection without a stated value between them are one re-examination. Where the value before goes on as an
operand after the word ("= 5. Wait, now 5 + 4 = 9"), the text went on with it and corrected nothing: that is not
checked. A partial result that is neither used again nor mended counts as wrong, since only the final answer is known.

Everything is linear in the text.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal

MARKERS: dict[str, tuple[str, ...]] = {
    "en": (
        "wait", "hmm", "however", "alternatively", "mistake", "wrong", "recheck", "verify",
        "check again", "double-check", "double check", "let me check", "rethink", "reconsider",
    ),
    "de": (
        "moment mal", "warte", "stimmt nicht", "falsch", "fehler", "nachprüfen", "überprüfen", "noch einmal rechnen",
        "andererseits",
    ),
    "fr": ("attends", "attendez", "en fait non", "erreur", "vérifions", "vérifier", "recalculons", "réexaminer"),
    "es": (
        "espera", "un momento", "me equivoqué", "equivocado", "verifiquemos", "verificar", "revisemos", "recalcular",
    ),
    "ru": ("подожди", "подождите", "погоди", "ошибка", "неверно", "проверим", "проверю", "пересчитаем", "однако"),
    "ar": ("انتظر", "لحظة", "خطأ", "لنتحقق", "دعني أتحقق", "أعيد النظر"),
    "zh": ("等等", "等一下", "不对", "错了", "重新检查", "再检查", "检查一下", "验证一下", "重新考虑", "重新计算"),
    "ja": ("待って", "ちょっと待", "間違", "確認してみ", "確かめ", "もう一度", "見直"),
}  # fmt: skip
"""Words and phrases of reflection by language, counted without regard to case; as whole words, but in Chinese and
Japanese, which have no spaces. Words that are as often something else ("but", "pero", "aber") are left out."""
REFLECTION_WORDS: tuple[str, ...] = tuple(word for words in MARKERS.values() for word in words)
"""All of them."""
_UNSPACED = {word for language in ("zh", "ja") for word in MARKERS[language]}


def _alternatives(words: Iterable[str]) -> str:
    # Longest first, so that "let me check" is not missed for a shorter phrase that begins alike.
    return "|".join(re.escape(word) for word in sorted(words, key=len, reverse=True))


_PATTERN = re.compile(
    rf"\b(?:{_alternatives(word for word in REFLECTION_WORDS if word not in _UNSPACED)})\b|{_alternatives(_UNSPACED)}",
    re.IGNORECASE,
)
_NUMBER = r"[-+−]?(?:\d{1,3}(?:,\d{3}){1,9}|\d{1,30})(?:\.\d{1,30})?"
STATED = re.compile(
    r"(?:=|≈|<answer>|\\boxed\{|\b(?:equals?|gives|makes|ergibt|ergeben|donne|равно|получаем|يساوي)\b|等于|得到?"
    r"|(?:\b(?:answer|result|total|sum|product|difference|antwort|ergebnis|summe|réponse|résultat|somme|respuesta"
    r"|resultado|suma|ответ|сумма|الجواب)\b|答案|结果|答え)\s{0,3}(?:is|are|be|would be|must be|ist|est|es|は|是|为)?)"
    rf"[\s:：*$(]{{0,4}}({_NUMBER})(?![\d.,]*\d)(?!\s{{0,3}}(?:=|[-+*/×÷^−]\s{{0,3}}[\d(]))",
    re.IGNORECASE,
)
"""A stated value: what a sum comes to, or what is said to be the answer; not the first operand of what follows."""
_IS_NUMBER = re.compile(rf"\s*\$?\s*({_NUMBER})\s*%?\s*")
SHOWN = 240
"""Characters of an example around its word of reflection, on each side."""

Verdict = Literal["wrong to right", "right to wrong", "right and right", "wrong and wrong", "not checked"]
VERDICTS: tuple[Verdict, ...] = (
    "wrong to right", "right to wrong", "right and right", "wrong and wrong", "not checked",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Reexamination:
    """A place where a completion looks at itself again."""

    word: str
    """The first word of reflection of the place, lower case."""
    start: int
    """Where it stands."""
    before: str | None
    """The value stated last before it; None where none is."""
    after: str | None
    """The value stated last after it, before the next re-examination; None where none is."""
    verdict: Verdict


def count_reflection(text: str) -> dict[str, int]:
    """How often each word of `REFLECTION_WORDS` that occurs stands in `text`."""
    counts: dict[str, int] = {}
    for found in _PATTERN.findall(text):
        word = found.lower()
        counts[word] = counts.get(word, 0) + 1
    return counts


def reflection_rate(texts: list[str]) -> float:
    """Words of reflection for each 1,000 words of all `texts` together; 0 where there are no words."""
    words = sum(len(text.split()) for text in texts)
    found = sum(sum(count_reflection(text).values()) for text in texts)
    return 1000 * found / words if words else 0.0


def reexaminations(text: str, gold: str | None) -> list[Reexamination]:
    """The re-examinations of a completion, in order, each with what it did to the stated value.

    Args:
        text: the completion.
        gold: the right answer; where it is no number, nothing is checked.
    """
    right = None if gold is None else _value(gold)
    stated = list(STATED.finditer(text))
    places: list[tuple[re.Match[str], int]] = []  # the word, and how many values are stated before it
    passed = 0
    for found in _PATTERN.finditer(text):
        while passed < len(stated) and stated[passed].end() <= found.start():
            passed += 1
        if not places or places[-1][1] < passed:
            places.append((found, passed))
    result = []
    for number, (found, count) in enumerate(places):
        last = places[number + 1][1] if number + 1 < len(places) else len(stated)
        end = places[number + 1][0].start() if number + 1 < len(places) else len(text)
        before = stated[count - 1].group(1) if count else None
        after = stated[last - 1].group(1) if last > count else None
        verdict: Verdict = "not checked"
        if right is not None and before is not None and after is not None:
            went_on = before != after and _goes_on(before, text[found.end() : end])
            verdict = "not checked" if went_on else _verdict(_value(before) == right, _value(after) == right)
        result.append(Reexamination(found.group().lower(), found.start(), before, after, verdict))
    return result


def _goes_on(value: str, text: str) -> bool:
    """Whether a value is an operand in a text."""
    number = re.escape(value)
    return (
        re.search(rf"(?<![\d.]){number}\s{{0,3}}[-+*/×÷^−]|[-+*/×÷^−]\s{{0,3}}{number}(?![\d.]*\d)", text) is not None
    )


def _verdict(before: bool, after: bool) -> Verdict:
    if before:
        return "right and right" if after else "right to wrong"
    return "wrong to right" if after else "wrong and wrong"


def _value(text: str) -> Decimal | None:
    found = _IS_NUMBER.fullmatch(text[:120])
    return None if found is None else Decimal(found[1].replace(",", "").replace("−", "-"))


@dataclass(frozen=True, slots=True)
class Example:
    """A re-examination with the text around it."""

    question: str
    gold: str | None
    excerpt: str
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class ReflectionSummary:
    """What the re-examinations of some completions come to."""

    completions: int
    reexamining: int
    """Completions with at least one."""
    verdicts: dict[Verdict, int]
    """Re-examinations by verdict."""
    examples: tuple[Example, ...]
    """Of those that changed a wrong value to the right one first, then of the other way."""

    @property
    def total(self) -> int:
        """Re-examinations."""
        return sum(self.verdicts.values())

    @property
    def checked(self) -> int:
        """Those that could be checked."""
        return self.total - self.verdicts["not checked"]


def summarise_reflection(
    completions: Iterable[tuple[str, str, str | None]], most_examples: int = 6
) -> ReflectionSummary:
    """Count and check the re-examinations of (question, completion, gold) triples."""
    verdicts: dict[Verdict, int] = dict.fromkeys(VERDICTS, 0)
    examples: dict[Verdict, list[Example]] = {"wrong to right": [], "right to wrong": []}
    number = reexamining = 0
    for question, text, gold in completions:
        number += 1
        found = reexaminations(text, gold)
        reexamining += bool(found)
        for each in found:
            verdicts[each.verdict] += 1
            kept = examples.get(each.verdict)
            if kept is not None and len(kept) < most_examples:
                kept.append(Example(question, gold, _excerpt(text, each.start), each.verdict))
    shown: Sequence[Example] = [*examples["wrong to right"], *examples["right to wrong"]]
    return ReflectionSummary(number, reexamining, verdicts, tuple(shown[:most_examples]))


def _excerpt(text: str, start: int) -> str:
    first, last = max(0, start - SHOWN), start + SHOWN
    return ("…" if first else "") + text[first:last] + ("…" if last < len(text) else "")
