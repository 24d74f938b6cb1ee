"""Markers of reflection ("wait", "let me check"): the paper's sign of an aha moment (arXiv 2501.12948, 2.2.4 and its
figure of reflective words).

The list of markers, by language, is our choice. A marker shows that a text speaks of reconsidering, not
that it does so: `self_correction.py` examines whether the statement changed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

MARKERS: Mapping[str, tuple[str, ...]] = {
    "en": (
        "wait", "hmm", "however", "alternatively", "mistake", "wrong", "recheck", "verify",
        "check again", "double-check", "double check", "let me check", "rethink", "reconsider", "re-check",
        "re-examine", "hold on", "on second thought",
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
    # Longest first, so that "let me check" is not missed for a shorter phrase with the same beginning.
    return "|".join(re.escape(word) for word in sorted(words, key=len, reverse=True))


_PATTERN = re.compile(
    rf"\b(?:{_alternatives(word for word in REFLECTION_WORDS if word not in _UNSPACED)})\b|{_alternatives(_UNSPACED)}",
    re.IGNORECASE,
)


def markers(text: str) -> list[tuple[int, int, str]]:
    """(start, end, marker in lower case) of every marker in `text`, in order."""
    return [(found.start(), found.end(), found.group().lower()) for found in _PATTERN.finditer(text)]


def count_reflection(text: str) -> dict[str, int]:
    """Number of occurrences in `text` of each word of `REFLECTION_WORDS` that occurs."""
    counts: dict[str, int] = {}
    for _, _, word in markers(text):
        counts[word] = counts.get(word, 0) + 1
    return counts


def reflection_rate(texts: list[str]) -> float:
    """Words of reflection for each 1,000 words of all `texts` together; 0 where there are no words."""
    words = sum(len(text.split()) for text in texts)
    found = sum(len(markers(text)) for text in texts)
    return 1000 * found / words if words else 0.0
