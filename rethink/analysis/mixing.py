"""Language mixing: words in another script than the question's."""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

_WORD = re.compile(r"[^\W\d_]+")
# Mathematics and code are written in Latin letters in every language.
_FORMULA = re.compile(r"\$[^$\n]{0,400}\$|\\[a-zA-Z]+|`[^`\n]{0,400}`")


def mixing_share(question: str, text: str) -> float | None:
    """Share of a text's words that are written in another script than most of the question.

    Formulas between dollar signs, LaTeX commands, code and single letters do not count. A character of a script that
    is written without spaces (Han, kana, Thai) counts as a word.

    Returns:
        0 to 1; None where question or text has no words.
    """
    asked, said = _scripts(question), _scripts(text)
    total = sum(said.values())
    if not asked or not total:
        return None
    own = max(sorted(asked), key=lambda script: asked[script])
    related = {"CJK", "HIRAGANA", "KATAKANA"} if own in ("HIRAGANA", "KATAKANA") else {own}
    return sum(number for script, number in said.items() if script not in related) / total


def _scripts(text: str) -> dict[str, int]:
    counts: dict[str, int] = {}
    for match in _WORD.finditer(_FORMULA.sub(" ", text)):
        word = match.group()
        script = _script(word[0])
        unspaced = script in ("CJK", "HIRAGANA", "KATAKANA", "THAI")
        if not unspaced and len(word) == 1:
            continue
        if unspaced:
            for char in word:
                counts[_script(char)] = counts.get(_script(char), 0) + 1
        else:
            counts[script] = counts.get(script, 0) + 1
    return counts


@lru_cache(maxsize=4096)
def _script(char: str) -> str:
    """First word of a character's Unicode name, which is its script for letters."""
    return unicodedata.name(char, "UNKNOWN").split(" ", 1)[0].removesuffix(",")
