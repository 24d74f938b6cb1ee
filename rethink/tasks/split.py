"""Which problems are trained on and which are held out: a property of the question's text, not of a run.

Unless a source brings a separate file or split, one question in six is held out, by a hash of what it asks. Twins ask
the same with their parts in another order (`3 + 5` and `5 + 3`, the greatest common divisor of 12, 18 and of 18, 12):
they share a hash, so no held-out question has a twin among the trained ones. The two sets are disjoint whatever the
seed, the order, the curriculum or the parameters, and the same question in two sources falls on the same side.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass

HELD_OUT_SHARE = 6
"""One question in so many is held out."""

_ORDER_FREE = re.compile(
    r"\b(?:gcd|hcf|lcm|(?:greatest|highest|least|lowest) common|(?:sum|product|mean|average|median) of|"
    r"using (?:all of )?these numbers|make 24 using|sort (?:these|the following)|following candidates|how many legs|"
    r"correct order of words|words into anagrams|palindrome using|these dice|s?he also has)\b"
)
"""Questions about a collection whose order says nothing, known by their words: beside those of files, reasoning-gym's
gcd, lcm, countdown, puzzle24, number_sorting, word_sorting, number_format, leg_counting, sentence_reordering,
group_anagrams, palindrome_generation, dice and aiw (siblings in either order)."""
_THOUSANDS = re.compile(r"(?<=[0-9]),(?=[0-9]{3}(?![0-9]))")
_SPELT = re.compile(r"\\(?:times|cdot|div)\b|\b(?:plus|minus|times|divided by)\b|(?<=[0-9)]) ?x ?(?=[0-9(])|[×·⋅∗÷−–]")
_OPERATORS = {"plus": "+", "minus": "-", "−": "-", "–": "-", "\\div": "/", "divided by": "/", "÷": "/"}
"""Spellings of operators; all others found by `_SPELT` are `*`."""
_ARITHMETIC = re.compile(r"[0-9.()\[\]\s*/+-]+")
"""What may belong to arithmetic; a stretch of it is arithmetic where it has two numbers and an operator."""
_NUMBER = re.compile(r"[0-9]+(?:\.[0-9]+)?")
_ASKING = re.compile(
    r"\b(?:what|is|calculate|compute|evaluate|solve|find|state|determine|the|value|result|answer|of|to|following|final|"
    r"arithmetic|expression|problem|multiplication)\b"
)
"""Words that ask for a value and say nothing of it: `What is 3 + 5?` and `Compute 5 + 3.` are twins."""
_PIECE = re.compile(r"\w+(?:\.[0-9]+)?|[^\w\s]")


def question_key(question: str) -> int:
    """A 64-bit hash of the question without regard to case, white space and Unicode's compatibility forms."""
    return _hash(_plain(question))


def split_key(question: str) -> int:
    """A 64-bit hash that a question shares with its twins: what the split is by.

    Arithmetic counts as the collection of its numbers and operators, without brackets, plus signs and the words that
    ask; a question about a collection (see `_ORDER_FREE`) as that of its words and numbers; any other as its text. That
    is coarser than sameness (`3 - 5` goes with `5 - 3`), which only keeps more together on one side.
    """
    plain = _plain(question)
    if _ORDER_FREE.search(plain):
        return _hash(" ".join(sorted(_PIECE.findall(plain))))
    text = _SPELT.sub(lambda match: _OPERATORS.get(match.group().strip(), "*"), _THOUSANDS.sub("", plain))
    collected = _ARITHMETIC.sub(_collection, text)
    if collected == text:
        return _hash(plain)
    pieces = _PIECE.findall(_ASKING.sub(" ", collected))
    return _hash(" ".join(piece for piece in pieces if piece not in "?.:=,!$"))


def hash_says_held_out(key: int) -> bool:
    """Whether the hash of `split_key` puts a question on the held-out side."""
    return key % HELD_OUT_SHARE == 0


def _plain(question: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", question).casefold().split())


def _hash(text: str) -> int:
    # Lone surrogates, which JSON can carry, have no UTF-8.
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big")


def _collection(match: re.Match[str]) -> str:
    """Arithmetic as its numbers and operators in sorted order; any other stretch as it is."""
    stretch = match.group()
    numbers, operators = sorted(_NUMBER.findall(stretch)), sorted(sign for sign in stretch if sign in "*/+-")
    if len(numbers) < 2 or not operators:
        return stretch
    return f" {' '.join(numbers)} {''.join(sign for sign in operators if sign != '+')} "


@dataclass(frozen=True, slots=True)
class Split:
    """The rule for all sources of a mixture together, so that no source trains on what another holds out."""

    reserved: frozenset[int] = frozenset()
    """Keys of the questions in separate held-out files: nobody trains on them."""
    trained: frozenset[int] = frozenset()
    """Keys that sources with a separate held-out file train on although the hash would hold them out."""

    def trains(self, key: int, *, separate: bool) -> bool:
        """Whether a source may train on a question; `separate`: it has its own held-out file."""
        return key not in self.reserved and (separate or not hash_says_held_out(key))

    def holds_out(self, key: int) -> bool:
        """Whether a source without a separate file may evaluate on a question."""
        return hash_says_held_out(key) and key not in self.trained


def split_of(separate: Iterable[tuple[Iterable[int], Iterable[int]]]) -> Split:
    """The split of a mixture, from (train keys, held-out keys) of each source with a separate held-out file."""
    pairs = [(frozenset(train), frozenset(held)) for train, held in separate]
    reserved = frozenset[int]().union(*(held for _, held in pairs))
    trained = frozenset[int]().union(*(train for train, _ in pairs)) - reserved
    return Split(reserved, frozenset(key for key in trained if hash_says_held_out(key)))
