"""How much a text repeats itself, by its n-grams (Yeo et al., arXiv 2502.03373, section 4.3)."""

from __future__ import annotations

from collections.abc import Hashable, Sequence


def repetition_penalty(units: Sequence[Hashable], ngram_size: int, max_penalty: float) -> float:
    """`max_penalty` (0 or below) times the share of n-grams that are repeats of another; 0 for fewer units than n."""
    total = len(units) - ngram_size + 1
    if total < 1:
        return 0.0
    different = len({tuple(units[i : i + ngram_size]) for i in range(total)})
    return (1.0 - different / total) * max_penalty


def words(text: str, language: str | None = None) -> list[str]:
    """Words parted by white space, lower case; Chinese (`zh`) as rjieba parts it."""
    if language == "zh":
        import rjieba

        return [word for word in rjieba.cut(text) if word.strip()]
    return text.lower().split()
