"""Choice among a problem's samples, duplicates, balance."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rethink.kinds.samples.choose import (
    RULES,
    balance,
    by_problem,
    choose,
    drop_duplicates,
    grams,
    likeness,
    most_per_task,
)
from rethink.kinds.samples.records import Sample

from .test_filters import sample


def of(*texts: str, **changes: object) -> list[Sample]:
    return [sample(text, id=f"{i}", tokens=len(text), **changes) for i, text in enumerate(texts)]


def kept(samples: list[Sample]) -> list[str]:
    return [each.completion for each in samples if each.kept]


def test_rules() -> None:
    texts = ["first we add two and three", "we add", "first we add two and three now", "count on your own fingers"]
    for rule, wanted in {
        "all": texts,
        "first": texts[:2],
        "shortest": [texts[1], texts[3]],
        "diverse": [texts[1], texts[3]],  # all are as unlike: the shorter
    }.items():
        group = of(*texts)
        choose(group, rule, 2)
        assert kept(group) == sorted(wanted, key=texts.index), rule
        assert {each.reason for each in group} <= {"kept", "not-chosen"}
    group = of(*texts)
    for each, score in zip(group, (0.1, 0.9, 0.4, 0.9), strict=True):
        each.judge = score
    choose(group, "judged", 1)
    assert kept(group) == [texts[1]], "of equal scores the shorter"


def test_diverse_takes_the_least_alike() -> None:
    group = of("a b c d", "a b c d e", "a b c d e f", "v w x y z u t s r")
    choose(group, "diverse", 2)
    assert kept(group) == ["a b c d", "v w x y z u t s r"]


@given(st.lists(st.text("ab ", max_size=12), min_size=1, max_size=6), st.integers(1, 7), st.sampled_from([*RULES]))
def test_every_rule_keeps_as_many_as_it_may(texts: list[str], keep: int, rule: str) -> None:
    group = of(*texts)
    group[0].reason = "incorrect"
    choose(group, rule, keep)
    assert group[0].reason == "incorrect"
    assert len(kept(group)) == (len(texts) - 1 if rule == "all" else min(keep, len(texts) - 1))


def test_duplicates() -> None:
    group = of("we add two and three", "We  add two and\nthree", "we add two and three then stop", "no")
    group[0].reason = "format"
    drop_duplicates(group, 0.95)
    assert [each.reason for each in group] == ["format", "kept", "kept", "kept"], "a dropped one does not count"
    group = of("we add two and three", "We  add two and\nthree", "we add two and three then stop", "no")
    drop_duplicates(group, 0.6)
    assert [each.reason for each in group] == ["kept", "duplicate", "duplicate", "kept"]
    assert likeness(grams("a b c d"), grams("a b c d e")) == pytest.approx(2 / 3)
    assert likeness(grams(""), grams(" ")) == 1.0


def test_samples_of_a_question_come_together() -> None:
    one, two, three = sample(question="1 + 1?"), sample(question="2 + 2?"), sample(question=" 1  + 1?")
    assert [len(group) for group in by_problem([one, two, three])] == [2, 1]


@given(st.lists(st.integers(0, 60), min_size=2, max_size=5), st.floats(0.1, 1.0))
def test_balance_is_the_largest_cap_that_holds(counts: list[int], share: float) -> None:
    samples = [sample(task=f"t{t}", id=f"{t}.{i}") for t, count in enumerate(counts) for i in range(count)]
    balance(samples, share, 0)
    left = Counter(each.task for each in samples if each.kept)
    given_counts = [count for count in counts if count]
    most = most_per_task(given_counts, share)
    assert sorted(left.values()) == sorted(min(count, most) for count in given_counts)
    if given_counts and share * len(given_counts) >= 1:
        assert max(left.values()) <= share * sum(left.values()) + 1e-6
        assert most == max(given_counts) or (most + 1) > share * sum(min(c, most + 1) for c in given_counts)


def test_balance_is_drawn_by_the_seed() -> None:
    def drop(seed: int) -> list[str]:
        samples = [sample(task=task, id=f"{task}{i}") for task, n in (("a", 40), ("b", 10)) for i in range(n)]
        balance(samples, 0.5, seed)
        return [each.id for each in samples if each.reason == "over-balance"]

    assert len(drop(0)) == 30
    assert drop(0) == drop(0)
    assert drop(0) != drop(1)
