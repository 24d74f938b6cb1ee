"""Which of a problem's good samples are kept: duplicates, the named rules, and the balance over tasks.

How alike two texts are: Jaccard's index of their sets of word 3-grams (shared / all), 1 for equal texts without regard
to case and white space. `diverse` begins with the shortest and goes on with the text whose likeness to the nearest
chosen one is least (farthest-first traversal).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from rethink.kinds.samples.records import Sample
from rethink.seeds import draw
from rethink.tasks.split import question_key

NGRAM = 3
LOOKED_AT = 100_000
"""Characters of a text that are compared."""
Grams = frozenset[tuple[str, ...]]


def grams(text: str) -> Grams:
    """Set of the word 3-grams; of a shorter text itself."""
    words = tuple(text[:LOOKED_AT].lower().split())
    if len(words) < NGRAM:
        return frozenset({words})
    return frozenset(words[i : i + NGRAM] for i in range(len(words) - NGRAM + 1))


def likeness(first: Grams, second: Grams) -> float:
    """Jaccard's index, 0 to 1."""
    return len(first & second) / len(first | second)


def by_problem(samples: Iterable[Sample]) -> list[list[Sample]]:
    """Samples of the same question and task together, in the order in which questions first come."""
    groups: dict[tuple[str, int], list[Sample]] = {}
    for sample in samples:
        groups.setdefault((sample.task, question_key(sample.question)), []).append(sample)
    return list(groups.values())


def drop_duplicates(group: Sequence[Sample], alike: float) -> None:
    """Mark samples that are at least `alike` to an earlier kept one of the same problem."""
    seen: list[Grams] = []
    for sample in group:
        if not sample.kept:
            continue
        own = grams(sample.completion)
        if any(likeness(own, other) >= alike for other in seen):
            sample.reason = "duplicate"
        else:
            seen.append(own)


def _first(group: Sequence[Sample], keep: int) -> list[Sample]:
    return list(group[:keep])


def _shortest(group: Sequence[Sample], keep: int) -> list[Sample]:
    return sorted(group, key=lambda sample: sample.tokens)[:keep]  # stable: of equal ones the first


def _judged(group: Sequence[Sample], keep: int) -> list[Sample]:
    return sorted(group, key=lambda sample: (-(sample.judge or 0.0), sample.tokens))[:keep]


def _diverse(group: Sequence[Sample], keep: int) -> list[Sample]:
    left = sorted(group, key=lambda sample: sample.tokens)
    chosen = [left.pop(0)]
    nearest = [likeness(grams(sample.completion), grams(chosen[0].completion)) for sample in left]
    while left and len(chosen) < keep:
        place = min(range(len(left)), key=lambda i: nearest[i])
        chosen.append(left.pop(place))
        nearest.pop(place)
        new = grams(chosen[-1].completion)
        nearest = [max(old, likeness(grams(sample.completion), new)) for old, sample in zip(nearest, left, strict=True)]
    return chosen


RULES: dict[str, Callable[[Sequence[Sample], int], list[Sample]]] = {
    "all": lambda group, keep: list(group),
    "first": _first,
    "shortest": _shortest,
    "diverse": _diverse,
    "judged": _judged,
}


def choose(group: Sequence[Sample], rule: str, keep: int) -> None:
    """Mark the kept samples of one problem that the rule leaves out as `not-chosen`.

    Args:
        group: samples of one problem.
        rule: a name of `RULES`.
        keep: samples to keep; `all` does not look at it.
    """
    kept = [sample for sample in group if sample.kept]
    if not kept:
        return
    chosen = {id(sample) for sample in RULES[rule](kept, keep)}
    for sample in kept:
        if id(sample) not in chosen:
            sample.reason = "not-chosen"


def balance(samples: Sequence[Sample], share: float, seed: int) -> None:
    """Mark samples as `over-balance` until no task has more than `share` of those that are kept.

    Which go is drawn by `seed`. Tasks of which nothing is left count for nothing; where so few tasks are left that
    `share` cannot hold, all are cut to the smallest.
    """
    kept = [sample for sample in samples if sample.kept]
    most = most_per_task(list(Counter(sample.task for sample in kept).values()), share)
    for task in dict.fromkeys(sample.task for sample in kept):
        own = [sample for sample in kept if sample.task == task]
        own.sort(key=lambda sample: draw("balance", seed, sample.id))
        for sample in own[most:]:
            sample.reason = "over-balance"


def most_per_task(counts: Sequence[int], share: float) -> int:
    """The highest cap on each count with which none is more than `share` of the sum; at least the lowest count."""
    low, high = min(counts, default=0), max(counts, default=0)
    while low < high:  # cap / sum(min(count, cap)) rises with the cap
        middle = (low + high + 1) // 2
        if middle <= share * sum(min(count, middle) for count in counts) + 1e-9:
            low = middle
        else:
            high = middle - 1
    return low
