"""Which problems are trained on and which are held out: a property of the question's text, not of a run.

Unless a source brings a separate file or split, one question in six is held out, by a hash of its normalised text.
So the two sets are disjoint whatever the seed, the order, the curriculum or the parameters, and the same question in
two sources falls on the same side.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass

HELD_OUT_SHARE = 6
"""One question in so many is held out."""


def question_key(question: str) -> int:
    """A 64-bit hash of the question without regard to case, white space and Unicode's compatibility forms."""
    plain = " ".join(unicodedata.normalize("NFKC", question).casefold().split())
    # Lone surrogates, which JSON can carry, have no UTF-8.
    digest = hashlib.blake2b(plain.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big")


def hash_says_held_out(key: int) -> bool:
    """Whether the hash of `question_key` puts a question on the held-out side."""
    return key % HELD_OUT_SHARE == 0


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
