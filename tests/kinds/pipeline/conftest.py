"""Pipelines whose stages do nothing but leave the files that others look for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rethink.errors import RunFailure
from rethink.kinds.eval.run import summarise
from rethink.kinds.pipeline.run import run_pipeline
from rethink.kinds.pipeline.selection import Selection
from rethink.observe.progress import Progress, make_progress
from rethink.recipe.recipe_files import parse_recipe
from rethink.runs.session import open_run

RECIPE = """\
name: small
kind: pipeline
vars:
  base: no/such/model
  tasks: [{kind: reasoning-gym, name: chain_sum}]
stages:
  zero: {kind: grpo, recipe: {model: {path: "${vars.base}"}, tasks: "${vars.tasks}", steps: 2}}
  tuned: {kind: sft, recipe: {model: {path: "${vars.base}"}, data: [{path: "${zero.folder}/rows.jsonl"}], epochs: 1}}
  other: {kind: grpo, recipe: {model: {path: "${vars.base}"}, tasks: "${vars.tasks}", steps: 3}}
  last: {kind: grpo, recipe: {model: {path: "${tuned.model}"}, tasks: "${vars.tasks}", steps: 2}}
"""
EVALUATION = """\
evaluation: {tasks: "${vars.tasks}", problems: 4}
evaluated: {base: "${vars.base}"}
"""
ROWS = (
    "<think>two and two are four</think><answer>4</answer>",
    "1 + 1 = 3. Wait, 1 + 1 = 2",
    "<script>alert(1)</script>",
    "4 4 4 4 4 4",
)


@dataclass
class Fake:
    """Stands for all runners; notes what it was asked to run."""

    ran: list[str] = field(default_factory=list)
    recipes: dict[str, Any] = field(default_factory=dict)
    failing: dict[str, BaseException] = field(default_factory=dict)
    stopping: set[str] = field(default_factory=set)
    seconds: dict[str, float] = field(default_factory=dict)
    """What the summary of a stage says of its time."""

    def __call__(self, recipe: Any, out: Path, *, resume: bool, progress: Progress) -> dict[str, Any]:
        assert resume
        self.ran.append(recipe.name)
        self.recipes[recipe.name] = recipe
        progress.start(1)
        progress.close()
        folder = open_run(recipe, out, resume=True, steps=1, choices=dict)
        if recipe.name in self.failing:
            raise self.failing[recipe.name]
        if recipe.name in self.stopping:
            return {"finished": False}
        (out / "checkpoints" / "step-000001").mkdir(parents=True)
        (out / "checkpoints" / "step-000001" / "state").write_bytes(bytes(1000))
        if recipe.kind == "eval":
            rows = self._answers(recipe.name)
            folder.write_samples("chunk-000000", rows)
            summary = {"finished": True, **summarise(rows, 1)}
        else:
            (out / "model").mkdir(exist_ok=True)
            (out / "model" / "config.json").write_text(f'{{"of": "{recipe.name}"}}')
            summary = {"finished": True, "wall_s": self.seconds.get(recipe.name, 0.0)}
        folder.write_summary(summary)
        return summary

    def _answers(self, name: str) -> list[dict[str, Any]]:
        """Four problems; the later a stage, the more of them are right."""
        right = {"eval-base": 0, "eval-zero": 1}.get(name, 3)
        return [
            {
                "problem_id": f"sum/{i}", "task": "sum" if i % 2 else "product", "question": f"{i} + {i}?",
                "answer": str(2 * i), "sample": 0, "text": ROWS[i], "accuracy": float(i < right),
                "right": float(i < right), "format": 1.0, "finish_reason": "stop", "tokens": 5 + i, "tags": 1.0,
                "repetition": 1.0, "language": None, "readability": 0.5, "reflects": 0.0,
            }
            for i in range(4)
        ]  # fmt: skip


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Fake:
    made = Fake()
    monkeypatch.setattr("rethink.kinds.pipeline.run.runner", lambda kind: made)
    # What takes time and has no part in these tests.
    monkeypatch.setattr("rethink.kinds.pipeline.run.gc", SimpleNamespace(collect=int))
    monkeypatch.setattr("rethink.kinds.pipeline.run.environment", lambda: {"git": {"commit": "c0ffee"}})
    monkeypatch.setattr("rethink.runs.session.environment", dict)
    return made


@pytest.fixture
def go(fake: Fake, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """`go(*overrides, text=…, out=…, **selection)` runs the small pipeline and returns its summary."""

    def run(
        *overrides: str,
        text: str = RECIPE,
        out: str = "out",
        progress: Progress | None = None,
        **selection: Any,
    ) -> dict[str, Any]:
        recipe = parse_recipe(text, "The recipe", overrides)
        return run_pipeline(  # type: ignore[arg-type]
            recipe, tmp_path / out, progress=progress or make_progress("none"), selection=Selection(**selection)
        )

    return run


def states(summary: dict[str, Any]) -> dict[str, str]:
    return {stage["name"]: stage["state"] for stage in summary["stages"]}


def broken(words: str = "the machine is on fire") -> RunFailure:
    return RunFailure(words)


def names(stages: Sequence[Any]) -> list[str]:
    return [stage.name for stage in stages]
