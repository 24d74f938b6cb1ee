"""Why a run learns nothing: each cause has its sentence, and a run that learns has none."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from rethink.observe.diagnosis import LEAST, diagnosis
from rethink.observe.live import LiveView
from rethink.observe.progress import Lines
from rethink.observe.report.before_after_table import before_after_table

SOUND = {
    "rollout/no_signal": 0.4, "rollout/accuracy": 0.5, "rollout/format": 0.9, "rollout/truncated": 0.0,
    "reward/failed": 0.0, "reward/abstained": 0.0,
}  # fmt: skip
SILENT = SOUND | {"rollout/no_signal": 1.0}
CASES = {
    "right": (SILENT | {"rollout/accuracy": 1.0}, "every completion was right. Take harder"),
    "wrong": (SILENT | {"rollout/accuracy": 0.0}, "hardly any completion was right. Take easier"),
    "format": (SILENT | {"rollout/accuracy": 0.0, "rollout/format": 0.0}, "kept the format. Show"),
    "truncated": (
        SILENT | {"rollout/accuracy": 0.0, "rollout/format": 0.0, "rollout/truncated": 1.0},
        "cut off by the token limit. Raise rollout.max_new_tokens",
    ),
    "alike": (SILENT, "earned the same. Raise rollout.temperature"),
    "failing": (
        SILENT | {"reward/failed": 0.8, "failure/timeout": 9, "failure/out_of_memory": 12},
        "80.0 % of the rewards failed, most by out of memory,",
    ),
    "abstaining": (SILENT | {"reward/abstained": 1.0}, "100.0 % of the rewards abstained"),
    "unrewarded": (SOUND | {"rollout/accuracy": 0.0}, "No completion was right in the last 20 steps"),
}


@pytest.mark.parametrize("kind", CASES)
def test_each_cause_has_its_sentence(kind: str) -> None:
    row, words = CASES[kind]
    found = diagnosis([SOUND] * 30 + [row] * 20)
    assert found is not None
    assert found.kind == kind
    assert words in found.text
    assert diagnosis([row]) is not None
    assert diagnosis([row] * (LEAST - 1), least=LEAST) is None
    assert diagnosis([row] * 30 + [SOUND] * 20) is None


def test_one_part_of_several_that_is_silent() -> None:
    row = {name: value for name, value in SOUND.items() if name != "rollout/accuracy"}
    for share, kind in (("reward/failed", "failing"), ("reward/abstained", "abstaining")):
        found = diagnosis([row | {share: 1 / 3}] * 6)
        assert found is not None
        assert found.kind == kind
    assert diagnosis([row] * 6) is None  # a recipe without the part `accuracy`


def test_a_run_that_learns_has_none() -> None:
    assert diagnosis([]) is diagnosis([{"step": 0, "eval/accuracy": 0.0}]) is None
    assert diagnosis([SOUND] * 20) is None
    assert diagnosis([SOUND] * 11 + [SILENT] * 9) is None
    assert diagnosis([SOUND | {"rollout/accuracy": 0.0}] * 19 + [SOUND]) is None  # right once


def test_it_counts_the_steps() -> None:
    wrong, _ = CASES["wrong"]
    found = diagnosis([{"step": 0, "eval/accuracy": 0.0}, SOUND, *[wrong] * 16])
    assert found is not None
    assert found.text.startswith("In 16 of the last 17 steps no group had a signal, so nothing was learnt: hardly any")


def picture(view: LiveView) -> str:
    console = Console(file=io.StringIO(), width=100)
    console.print(view.render())
    return " ".join(console.file.getvalue().replace("│", " ").split())  # type: ignore[attr-defined]


def test_the_live_view_shows_it_while_it_lasts() -> None:
    view = LiveView(console=Console(file=io.StringIO(), width=100))
    view.expect(40)
    wrong: dict[str, Any] = CASES["wrong"][0]
    for _ in range(LEAST):
        view.step(wrong)
    assert f"In {LEAST} of the last {LEAST} steps no group had a signal" in picture(view)
    for _ in range(LEAST + 1):
        view.step(SOUND)
    assert "no group had a signal" not in picture(view)


def test_lines_say_it_once() -> None:
    stream = io.StringIO()
    lines = Lines(stream)
    for row in [CASES["wrong"][0]] * 12 + [SOUND] * 20 + [CASES["format"][0]] * 20:
        lines.step(row)
    said = [line for line in stream.getvalue().splitlines() if "no group" in line]
    assert len(said) == 2
    assert "was right" in said[0]
    assert "format" in said[1]


def test_the_end_of_a_run_says_it_in_place_of_chance() -> None:
    entry = {"accuracy": 0.0, "accuracy_ci": [0.0, 0.02], "format": 0.0, "length_mean": 9.0, "n": 200}
    console = Console(file=io.StringIO(), width=200)
    console.print(before_after_table({"before": entry, "after": entry, "diagnosis": "Nothing was right."}))
    console.print(before_after_table({"before": entry, "after": entry}))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert text.count("may be chance") == 1
    assert text.count("Nothing was right.") == 1
