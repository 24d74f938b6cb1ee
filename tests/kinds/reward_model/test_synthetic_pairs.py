"""Pairs by rule: which sample is better, which are taken, and what is counted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rethink.errors import TaskError
from rethink.kinds.reward_model.synthetic_pairs import Sample, fault_of, make_pairs, read_samples


def sample(
    text: str, accuracy: float | None, form: float | None = 1.0, question: str = "q", tokens: int = 10
) -> Sample:
    return Sample("sums", question, text, tokens, {"accuracy": accuracy, "format": form, "language": 1.0})


def turn(answer: str) -> str:
    return f"<think>so</think><answer>{answer}</answer>"


@pytest.mark.parametrize(
    ("given", "fault"),
    [
        (sample("a", 1), None),
        (sample("a", 1, None), None),
        (sample("a", 0.5), "wrong"),
        (sample("a", 0, 0), "wrong"),
        (sample("a", 1, 0), "unformatted"),
        (sample("the same words again " * 20, 1), "repetitive"),
        (sample("a", None), "unjudged"),
        (Sample("t", "q", "a", 1, {"math": 1.0}), None),
        (Sample("t", "q", "a", 1, {"letters": 1.0}), "unjudged"),
    ],
)
def test_what_is_the_matter_with_a_sample(given: Sample, fault: str | None) -> None:
    assert fault_of(given) == fault


def test_pairs_of_like_length_each_worse_sample_once() -> None:
    samples = [
        sample(turn("6"), 1, tokens=20),
        sample(turn("six"), 1, tokens=60),
        sample(turn("5"), 0, tokens=58),
        sample(turn("7"), 0, tokens=22),
        sample("6 it is", 1, 0, tokens=100),
        sample(turn("9"), None),
        sample("<think>never", 0),
        sample(turn("1"), 1, question="all right"),
        sample(turn("1"), 0, question="all wrong"),
    ]
    pairs, counts = make_pairs(samples, on="summary", most=3)
    assert [(p.responses[0], p.responses[1], p.rule) for p in pairs] == [
        (turn("6"), turn("7"), "right-over-wrong"),
        (turn("six"), turn("5"), "right-over-wrong"),
        (turn("six"), "6 it is", "right-over-unformatted"),
    ]
    assert pairs[0].prompt == ({"role": "user", "content": "q"},)
    assert counts == {"samples": 9, "questions": 3, "pairs": 3, "pairless": 2, "unjudged": 1, "unscorable": 1}
    assert len(make_pairs(samples, on="summary", most=1)[0]) == 1


def test_what_looks_the_same_where_it_is_scored_is_no_pair() -> None:
    """The right answer without tags is the same summary as with them, so nothing could be learned from the pair."""
    samples = [sample(turn("6"), 1), sample("6", 1, 0)]
    assert make_pairs(samples, on="summary")[0] == []
    assert len(make_pairs(samples, on="response")[0]) == 1


def test_a_sample_file(tmp_path: Path) -> None:
    row: dict[str, Any] = {"id": "1", "task": "sums", "question": "q", "gold": "6", "messages": [], "kept": True}
    row |= {"reason": "kept", "rewards": {"accuracy": 1.0, "format": None}, "tokens": 4, "completion": turn("6")}
    path = tmp_path / "samples.jsonl"
    path.write_text(json.dumps(row) + "\n" + json.dumps(row | {"kept": False, "rewards": {"accuracy": 0}}) + "\n")
    found = list(read_samples(path))
    assert [fault_of(one) for one in found] == [None, "wrong"]
    assert found[0].tokens == 4
    path.write_text('{"prompt": "x", "chosen": "a"}\n')
    with pytest.raises(TaskError, match=r"line 1 is no sample \(it has prompt, chosen\)"):
        list(read_samples(path))
