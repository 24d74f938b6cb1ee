"""Counting words of reflection ("wait", "let me check"): the paper's sign of an aha moment (arXiv 2501.12948, 2.3)."""

from __future__ import annotations

import re

REFLECTION_WORDS = (
    "wait", "hmm", "however", "alternatively", "mistake", "wrong", "recheck", "verify",
    "check again", "double-check", "double check", "let me check", "rethink", "reconsider",
)  # fmt: skip
"""Words and phrases that are counted, without regard to case, as whole words."""

# Longest first, so that "let me check" is not missed for a shorter phrase that begins alike.
_PATTERN = re.compile(
    r"\b(?:" + "|".join(re.escape(word) for word in sorted(REFLECTION_WORDS, key=len, reverse=True)) + r")\b",
    re.IGNORECASE,
)


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
