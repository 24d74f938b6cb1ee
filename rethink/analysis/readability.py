r"""Readability of a completion, from 0 to 1: tags, repetition, length of paragraphs, and mixed languages.

DeepSeek-R1 (arXiv 2501.12948, 2.3.1 and 2.3.3) keeps readable samples and drops chains of thought with mixed languages,
long paragraphs and code blocks, without a formula. Ours is the product of four terms, each 1 where nothing is wrong:

- `tags`: 1 / (1 + stray), where stray counts tags beyond one thought and one answer, unclosed ones, and marks of chat
  templates (`<|im_end|>`);
- `repetition`: 1 minus the share of 8-grams that repeat an earlier one (`repetition_share`);
- `length`: 0 for an empty text, else 1 up to `PARAGRAPH` words in the longest paragraph, then `PARAGRAPH` / words;
- `mixing`: share of the thought's words in the target language (`rethink.analysis.language`), 1 where it has none.

Their product, and not their mean: one serious fault makes a text hard to read, whatever else is right about it. All of
it is linear in the text, and no more than `LOOKED_AT` characters are looked at.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from rethink.analysis.language import language_share
from rethink.analysis.repetition import repetition_penalty
from rethink.model.text.thoughts import ANSWER, END_ANSWER, END_THINK, THINK, thought_of

PARAGRAPH = 150
"""Words of a paragraph from which it is hard to read."""
NGRAM = 8
"""Units of a repeated n-gram: long enough that similar sums do not count, short enough to find loops."""
LOOKED_AT = 400_000
"""Characters that are looked at; what comes after is left out."""

_PAIRS = ((THINK, END_THINK), (ANSWER, END_ANSWER))
_OWN = {tag for pair in _PAIRS for tag in pair}
_TAG = re.compile(r"</?[A-Za-z][A-Za-z0-9_-]{0,30}>|<\|[^|<>\n]{1,40}\|>|\[/?INST\]|<</?SYS>>")
_FENCED = re.compile(r"```.*?(?:```|\Z)|~~~.*?(?:~~~|\Z)", re.DOTALL)
_UNIT = re.compile(r"[a-z0-9\u00c0-\u024f\u0400-\u04ff]{1,20}|\S")
_BLANK = re.compile(r"\n[ \t\r]*\n")
_UNSPACED = re.compile(r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff]")
_PROGRAM = re.compile(
    r"^[ \t]{0,40}(?:def \w+\(|class \w+|import \w+|from \w[\w.]* import |#include\b|print\(|console\.log\(|return \w|"
    r"public static |for \w+ in .{0,200}:[ \t]*$|while .{1,200}:[ \t]*$)",
    re.MULTILINE,
)
PROGRAM_LINES = 2
"""Lines that begin as a program's do from which a text without fences holds code."""


@dataclass(frozen=True, slots=True)
class Readability:
    """The four terms, each from 0 to 1."""

    tags: float
    repetition: float
    length: float
    mixing: float

    @property
    def score(self) -> float:
        """Their product."""
        return self.tags * self.repetition * self.length * self.mixing


def readability(turn: str, language: str = "en") -> Readability:
    """How readable an assistant's turn is.

    Args:
        turn: the whole turn, with what the prompt began of it.
        language: the target, a key of `rethink.analysis.language.SCRIPTS`.

    Raises:
        KeyError: a language that is not supported.
    """
    turn = turn[:LOOKED_AT]
    share = language_share(thought_of(turn), language).share
    longest = longest_paragraph(turn)
    return Readability(
        tags=1.0 / (1.0 + stray_tags(turn)),
        repetition=1.0 - repetition_share(turn),
        length=min(1.0, PARAGRAPH / longest) if longest else 0.0,
        mixing=1.0 if share is None else share,
    )


def stray_tags(turn: str) -> int:
    """Tags too many: others than thought and answer, repeated or unclosed ones, marks of templates; not in code."""
    text = _FENCED.sub(" ", turn[:LOOKED_AT])
    stray = sum(1 for found in _TAG.finditer(text) if found.group() not in _OWN)
    for opened, closed in _PAIRS:
        begun, ended = text.count(opened), text.count(closed)
        stray += max(begun - 1, ended - 1, 0) + abs(begun - ended)
    return stray


def repetition_share(text: str) -> float:
    """Share of the text's 8-grams that repeat an earlier one; 0 for fewer than 8 units.

    Units are runs of letters and digits, cut every 20 characters (so a loop without spaces shows), and every other
    character that is no white space; Chinese and Japanese count by character.
    """
    return -repetition_penalty(_UNIT.findall(text[:LOOKED_AT].lower()), NGRAM, -1.0)


def longest_paragraph(text: str) -> int:
    """Words of the longest paragraph (parted by blank lines); two characters of Chinese or Japanese are a word."""
    return max(
        (len(_UNSPACED.sub(" ", part).split()) + len(_UNSPACED.findall(part)) // 2 for part in _BLANK.split(text)),
        default=0,
    )


def has_code(text: str) -> bool:
    """Whether a text holds code: a fence, or at least two lines that begin as a program's do."""
    text = text[:LOOKED_AT]
    if "```" in text or "~~~" in text:
        return True
    return sum(1 for _ in _PROGRAM.finditer(text)) >= PROGRAM_LINES
