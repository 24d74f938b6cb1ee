"""`rethink profile` on a tiny model: times that add up, operations by name, products counted; natively and without."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rethink.cli import main
from rethink.kernels import trace
from rethink.kernels.native import library
from rethink.kinds.grpo import profile as profiling
from rethink.kinds.grpo.operations import BETWEEN, event_name, operations_of
from rethink.kinds.grpo.profile import PhaseClock, Profile, profile_recipe
from rethink.recipe.recipe_files import load_recipe


@pytest.fixture(autouse=True)
def _rate(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(profiling, "measure_gemm", lambda types: dict.fromkeys(types, 100.0))
    yield
    assert trace._watcher is None


def measured(recipe_file: Path, choice: str, *overrides: str) -> Profile:
    with library.using(choice):
        if choice == "auto" and library.native() is None:
            pytest.skip(f"no native kernels here: {library.status()}")
        return profile_recipe(load_recipe(recipe_file, overrides), 2)


@pytest.mark.parametrize(
    ("choice", "dtype"),
    [
        ("auto", "bfloat16"),
        ("reference", "float32"),
        pytest.param("auto", "float32", marks=pytest.mark.slow),
        pytest.param("reference", "bfloat16", marks=pytest.mark.slow),
    ],
)
def test_a_profile_adds_up(recipe_file: Path, choice: str, dtype: str) -> None:
    found = measured(recipe_file, choice, f"model.dtype={dtype}")
    # Two mini-batches, two epochs: four updates a rollout batch, and only whole batches are measured.
    assert (found.steps, found.traced_steps) == (4, 4)
    assert (found.kernels == "reference") == (choice == "reference")
    phases = {phase.name: phase for phase in found.phases}
    assert {"rollout", "prefill", "decode", "rewards", "forward", "backward", "reference", "optimizer"} <= set(phases)
    assert sum(p.seconds for p in found.phases) == pytest.approx(found.step_s)
    assert sum(p.share for p in found.phases) == pytest.approx(1)
    assert phases["rollout"].calls == 0.25
    assert phases["optimizer"].calls == 1
    assert sum(o.seconds for o in found.operations) == pytest.approx(found.traced_step_s)
    names = {(o.phase, o.name) for o in found.operations}
    for phase in ("decode", "forward", "backward"):
        assert {"attention", "norms", "SwiGLU"} <= {name for where, name in names if where == phase}
    assert {("decode", "sampling"), ("optimizer", BETWEEN), ("packing", BETWEEN)} <= names
    products = [o for o in found.operations if o.name.startswith("product: ")]
    assert {o.phase for o in products} >= {"prefill", "decode", "reference", "forward", "backward"}
    assert all(o.gflop > 0 and o.machine_share == pytest.approx((o.gflops or 0) / 100) for o in products)
    assert found.training is not None
    assert found.training.share == pytest.approx(found.training.gflop / found.training.seconds / 100)


@pytest.mark.parametrize("choice", ["auto", pytest.param("reference", marks=pytest.mark.slow)])
def test_products_are_counted_in_full(recipe_file: Path, choice: str) -> None:
    """The work of a forward pass's blocks is 2 x parameters x tokens, whichever kernels do it."""
    overrides = ("model.dtype=bfloat16", "algorithm.mini_batches=1", "algorithm.epochs=1", "algorithm.beta=0")
    found = measured(recipe_file, choice, *overrides, "algorithm.reference_every=null")
    blocks = {"qkv", "output", "gate_up", "down"}

    def work(phase: str) -> float:
        chosen = [o for o in found.operations if o.phase == phase and o.name.startswith("product: ")]
        return sum(o.gflop for o in chosen if set(o.name.removeprefix("product: ").split("/")) & blocks)

    assert work("forward") > 0
    assert work("backward") == pytest.approx(2 * work("forward"), rel=0.01)


def event(name: str, parent: Any = None, micros: float = 0.0, shapes: list[list[int]] | None = None) -> SimpleNamespace:
    own = SimpleNamespace(name=name, cpu_parent=parent, self_cpu_time_total=micros, input_shapes=shapes or [])
    own.id = id(own)
    return own


def test_events_go_to_the_innermost_name_that_says_something() -> None:
    step = event(event_name("step", ()), None, 5e5)
    forward = event(event_name("forward", (7, 3)), step, 1e5)
    norm = event("_RMSNorm", forward, 1e5)
    events = [
        *(event("aten::mm", None, 9e9), step, forward, norm),
        event("aten::mul", norm, 1e5),
        event("aten::mm", event("aten::linear", forward), 2e5, [[100, 20], [20, 50]]),
        event(event_name("rt_gemm", (100, 50, 20)), forward, 3e5),
        event("aten::bmm", event("_TreeAttentionBackward", forward), 1e5, [[2, 3, 4], [2, 4, 5]]),
        event("aten::cat", forward, 100.0),
        event("aten::sort", forward, 5e5),
    ]
    found, total = operations_of(events, {(50, 20): "down"}, 1, 10.0)
    by_name = {(o.phase, o.name): o for o in found}
    assert total == pytest.approx(1.9001)
    assert by_name["forward", "norms"].seconds == pytest.approx(0.2)
    assert by_name["forward", "norms"].calls == 1
    product = by_name["forward", "product: down"]
    assert (product.calls, product.seconds, product.gflop) == (2, pytest.approx(0.5), pytest.approx(4e-4))
    assert product.machine_share == pytest.approx(4e-4 / 0.5 / 10)
    assert by_name["forward", "attention"].seconds == pytest.approx(0.1)
    assert by_name["forward", "torch sort"].calls == 1
    assert by_name["forward", "other torch operations"].seconds == pytest.approx(1e-4)


def test_phases_are_charged_for_their_own_time_only(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter(range(100))
    monkeypatch.setattr(profiling.time, "perf_counter", lambda: next(ticks))
    memory = iter([(1.0, 1.0), (2.0, 5.0), (3.0, 9.0), (4.0, 4.0)])
    monkeypatch.setattr(profiling, "_resident_mb", lambda: next(memory))
    clock = PhaseClock()
    with trace.watching(clock), trace.span("step"), trace.span("attention"), trace.span("forward", 7, 3):
        pass
    assert {name: (p.seconds, p.rss_mb, p.peak_mb) for name, p in clock.phases.items()} == {
        "step": (2, 4.0, 9.0),
        "forward": (1, 3.0, 9.0),
    }
    assert clock.sizes == {"forward": [7, 3]}


def test_the_verb_prints_tables_or_json(recipe_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["profile", str(recipe_file), "algorithm.mini_batches=1", "algorithm.epochs=1", "--steps", "1"]
    assert main.main([*words, "--json"]) == 0
    said = capsys.readouterr()
    assert json.loads(said.out)["steps"] == 1
    assert "tracing 1 step" in said.err
    assert main.main(words) == 0
    text = capsys.readouterr().out
    for part in ("A step of tiny", "backward", "product: gate_up", "of the rate"):
        assert part in text
    assert main.main(["profile", str(recipe_file), "tasks.0.name=chain_summ"]) == 2
