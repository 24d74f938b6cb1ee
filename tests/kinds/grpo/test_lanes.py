"""A step in lanes: the loss is that of the whole step, and a lane is the same wherever it is computed."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable
from dataclasses import asdict, fields, is_dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from rethink.kinds.grpo.update import MiniBatch, UpdateStats, accumulate_gradients, compute_logprobs
from rethink.kinds.grpo.wire import LANES
from rethink.model.decoder.decoder import Decoder
from rethink.model.loading import Checkpoint, load_checkpoint
from rethink.runs.optimizer import MasterAdamW
from rethink.runs.rounds import train_lanes
from rethink.types import Completion, Problem, Prompt, Rollout, Turn
from tests.kinds.grpo.test_update import close, groups, recipe


@pytest.fixture
def checkpoint(tiny_folder: Callable[..., Path]) -> Checkpoint:
    return load_checkpoint(str(tiny_folder("qwen3")))


def decoder(checkpoint: Checkpoint, dtype: torch.dtype) -> Decoder:
    assert checkpoint.config is not None
    return Decoder(checkpoint.config, checkpoint.tensors, dtype, "cpu")


@pytest.mark.parametrize("aggregation", ["sequence", "token"])
def test_lanes_change_the_order_of_sums_alone(checkpoint: Checkpoint, aggregation: str) -> None:
    chosen = recipe(f"algorithm.aggregation={aggregation}", "algorithm.beta=0.1")
    model = decoder(checkpoint, torch.float64)
    whole = MiniBatch(groups(), [v + 0.1 * i for i, v in enumerate(compute_logprobs(model, groups(), 1.0, 99))])
    found: list[tuple[UpdateStats, dict[str, Tensor]]] = []
    for number in (1, 2, 3, 9):
        reference = model.clone()
        optimizer = MasterAdamW(model, chosen.optimizer, lanes=number)
        lanes = whole.lanes(number)
        assert len(lanes) == min(number, 4)
        run = partial(accumulate_gradients, chosen, model, reference, step=0, limit=40)
        stats = UpdateStats.merged(train_lanes(optimizer, lanes, run, LANES, 0))
        found.append((stats, {n: t.clone() for n, t in optimizer._totals.items()}))
        assert all((g == 0).all() for g in optimizer.gradients().values()) == (number > 1)
    for stats, gradient in found[1:]:
        close(found[0][1], gradient)
        assert stats.metrics(chosen.algorithm) == pytest.approx(found[0][0].metrics(chosen.algorithm), rel=1e-9)
    assert max(float(g.abs().max()) for g in found[0][1].values()) > 1e-4


def in_turns(rollout: Rollout) -> Rollout:
    """Long ones sampled in two turns, with an advantage of each token."""
    size = len(rollout.completion.token_ids)
    if size < 5:
        return rollout
    return replace(rollout, turns=(Turn(0, 2), Turn(size - 2, size)), advantage=np.linspace(-1, 2, size))


@pytest.mark.parametrize("change", [lambda rollout: rollout, in_turns])
def test_a_lane_that_travels_as_arrays_has_the_same_bits(
    checkpoint: Checkpoint, change: Callable[[Rollout], Rollout]
) -> None:
    chosen, model = recipe("algorithm.beta=0.1"), decoder(checkpoint, torch.float32)
    made = [[change(rollout) for rollout in group] for group in groups()]
    old = [v + 0.1 * i for i, v in enumerate(compute_logprobs(model, groups(), 1.0, 99))]
    optimizer, reference = MasterAdamW(model, chosen.optimizer), model.clone()
    for lane in MiniBatch(made, old, [False, True, False, False], beta=0.25).lanes(2):
        here = accumulate_gradients(chosen, model, reference, lane, 3, 40)
        gradient = {n: g.clone() for n, g in optimizer.gradients().items()}
        torch._foreach_zero_(list(optimizer.gradients().values()))
        there = accumulate_gradients(chosen, model, reference, LANES.unpack(LANES.pack(lane)), 3, 40)
        assert LANES.statistics(**json.loads(json.dumps(asdict(there)))) == here
        assert all(torch.equal(g, gradient[n]) for n, g in optimizer.gradients().items())
        torch._foreach_zero_(list(optimizer.gradients().values()))


def test_what_is_unknown_stays_unknown(checkpoint: Checkpoint) -> None:
    """Without old log-probabilities, ratios are of the current ones."""
    lane = MiniBatch(groups()).lanes(1)[0]
    back = LANES.unpack(LANES.pack(lane))
    assert back.old_logprobs is None
    assert back.counted == (16, sum(lane.lengths))
    assert [r.prompt.token_ids for group in back.groups for r in group] == [
        r.prompt.token_ids for group in lane.groups for r in group
    ]


READS = [
    (),
    ("algorithm.beta=0.1",),
    ("algorithm.type=gspo",),
    ("algorithm.aggregation=fixed",),
    ("algorithm.off_policy_mask=0.1", "algorithm.epochs=2"),
    ("rollout.lag=1", "algorithm.correction=tis"),
]
"""Recipes that together read all that training ever reads."""


def test_what_training_reads_travels(checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    """A field that the gradients begin to read must be packed as well."""
    made = [[replace(in_turns(r), reward=1.5, outcomes={"a": None}) for r in group] for group in groups()]  # type: ignore[dict-item]
    model = decoder(checkpoint, torch.float32)
    old = [v + 0.1 for v in compute_logprobs(model, made, 1.0, 99)]
    (lane,) = MiniBatch(made, old, [False, True, False, False], beta=0.25).lanes(1)
    read: dict[type, set[str]] = defaultdict(set)
    with monkeypatch.context() as patched:
        for kind in (MiniBatch, Rollout, Completion, Prompt, Problem, Turn):
            names = {field.name for field in fields(kind)}

            def watched(self: Any, name: str, kind: type = kind, names: set[str] = names) -> Any:
                if name in names:
                    read[kind].add(name)
                return object.__getattribute__(self, name)

            patched.setattr(kind, "__getattribute__", watched, raising=False)
        for overrides in READS:
            accumulate_gradients(recipe(*overrides), model, model.clone(), lane, 3, 40)
    assert {"token_ids", "logprobs"} <= read[Completion]

    def same(one: Any, two: Any, where: str) -> None:
        if is_dataclass(one):
            for name in read[type(one)]:
                same(getattr(one, name), getattr(two, name), f"{where}.{name}")
        elif isinstance(one, np.ndarray | Tensor):
            assert np.array_equal(one, two), where
        elif isinstance(one, list | tuple):
            assert len(one) == len(two), where
            for a, b in zip(one, two, strict=True):
                same(a, b, f"{where}[…]")
        elif isinstance(one, float) and where.endswith(".advantage"):
            assert (np.asarray(two) == one).all()
        else:
            assert one == two, where

    same(lane, LANES.unpack(LANES.pack(lane)), "lane")
