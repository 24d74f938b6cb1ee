"""Mixtures of sentences in two languages at known ratios, for the test and the benchmark of language consistency."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Iterator
from pathlib import Path

from rethink.analysis.language import SCRIPTS, language_share

SENTENCES: dict[str, list[str]] = json.loads(Path(__file__).with_name("sentences.json").read_text("utf-8"))
"""By language: twenty sentences that say the same in each."""


def mixtures(per_pair: int, sentences: int = 12) -> Iterator[tuple[str, str, str, float]]:
    """(target, other, text, known share of the target's words). Words of a sentence are counted alone."""
    rng = random.Random(0)
    words = {(lang, s): language_share(s, lang).words for lang, all_ in SENTENCES.items() for s in all_}
    for target, other in itertools.permutations(SENTENCES, 2):
        for _ in range(per_pair):
            k = rng.randint(0, sentences)
            parts = [(target, s) for s in rng.sample(SENTENCES[target], k)]
            parts += [(other, s) for s in rng.sample(SENTENCES[other], sentences - k)]
            rng.shuffle(parts)
            total = sum(words[part] for part in parts)
            yield target, other, " ".join(s for _, s in parts), sum(words[p] for p in parts if p[0] == target) / total


def mean_errors(per_pair: int) -> tuple[float, float]:
    """Mean absolute error of the share (between scripts, between Latin-script languages)."""
    errors: dict[bool, list[float]] = {True: [], False: []}
    for target, other, text, known in mixtures(per_pair):
        share = language_share(text, target).share
        assert share is not None
        errors[SCRIPTS[target] == SCRIPTS[other]].append(abs(share - known))
    return tuple(sum(errors[same]) / len(errors[same]) for same in (False, True))  # type: ignore[return-value]
