"""Runs of sharded ranks as processes, for tests: each plays scenarios one after the other in one group."""

from __future__ import annotations

import dataclasses
import multiprocessing
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from rethink.check.gpu.job import random_decoder
from rethink.distributed.sharded_group import ShardedGroup
from rethink.distributed.sharded_optimizer import ShardedAdamW
from rethink.model.decoder.config import DecoderConfig
from rethink.model.decoder.packing import PackedGroup, pack
from rethink.model.language_model import LanguageModel
from rethink.model.transformers_model import TransformersModel
from rethink.recipe.schema import OptimizerSection
from rethink.runs.lanes import Arrays, Lanes
from rethink.runs.optimizer import MasterAdamW, Optimizer
from rethink.runs.rounds import train_lanes
from tests.distributed.local_ranks import serve
from tests.models import SHAPE, tiny_model

SECTION = OptimizerSection(learning_rate=0.01, weight_decay=0.1, max_grad_norm=0.5, epsilon=1e-4)
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
VOCAB = 43
"""No multiple of any number of ranks."""
Lane = list[list[int]]
"""Sequences of ids; the first two are the prompt."""


@dataclass(frozen=True)
class Scenario:
    """Some steps of a model from the same start."""

    name: str
    engine: str = "decoder"
    dtype: str = "float32"
    tied: bool = True
    recompute: bool = False
    lanes: tuple[int, ...] = (3, 3)
    """Of each step: how many there are."""
    read: str | None = None
    """Checkpoint to begin from."""
    write: str | None = None
    """Where to write one at the end."""
    first: int = 0
    """Number of the first step."""


@dataclass
class Numbers:
    """Statistics of a lane."""

    loss: float = 0.0
    sequences: list[int] = field(default_factory=list)


def lanes_of(step: int, number: int) -> list[Lane]:
    """Lanes of unequal size, drawn by their numbers."""
    dice = np.random.default_rng(step)
    return [
        [dice.integers(VOCAB, size=4 + (lane + n) % 5).tolist() for n in range(1 + (step + lane) % 3)]
        for lane in range(number)
    ]


def rows(lane: Lane, limit: int) -> list[list[list[int]]]:
    """Sequences in micro-batches of at most so many tokens."""
    found: list[list[list[int]]] = []
    for ids in lane:
        if not found or sum(map(len, found[-1])) + len(ids) > limit:
            found.append([])
        found[-1].append(ids)
    return found


def compute(_: Any, model: LanguageModel, __: Any, lane: Lane, step: int, limit: int) -> Numbers:
    found = Numbers()
    for row in rows(lane, limit):
        batch = pack([PackedGroup(ids[:2], [ids[2:]]) for ids in row], model.device)
        loss, logprobs_C, _e = model.completion_loss(batch, lambda logprobs_C, part: -0.1 * logprobs_C.sum())
        loss.backward()
        found.loss += float(-0.1 * logprobs_C.sum())
        found.sequences.append(len(row))
    return found


def pack_lane(lane: Lane) -> Arrays:
    return {str(n): np.array(ids) for n, ids in enumerate(lane)}


LIMIT = 12
LANES: Lanes[Lane, Numbers] = Lanes(
    build=lambda recipe, checkpoint, placement: None,
    compute=compute,
    pack=pack_lane,
    unpack=lambda arrays: [ids.tolist() for ids in arrays.values()],
    statistics=Numbers,
    pieces=lambda lane, limit: [len(row) for row in rows(lane, limit)],
)


def model_of(scenario: Scenario) -> tuple[LanguageModel, dict[str, Tensor]]:
    """The model, and what its weights were rounded from."""
    dtype = DTYPES[scenario.dtype]
    if scenario.engine == "transformers":
        values = SHAPE | {"vocab_size": VOCAB, "max_position_embeddings": 64}
        module = tiny_model("Olmo", seed=1, tie_word_embeddings=scenario.tied, **values)
        return TransformersModel(module.to(dtype), dtype), {}
    config = DecoderConfig("qwen2", VOCAB, 32, 48, 2, 4, 2, 8, 1e-5, 1e4, 64, scenario.tied, qkv_bias=True)
    exact = random_decoder(config, torch.float32, "cpu", spread=0.2)
    if dtype == torch.float32:
        return exact, {}
    weights = {name: weight.detach() for name, weight in exact.named_parameters()}
    return random_decoder(config, dtype, "cpu", spread=0.2), weights


def play(optimizer: Optimizer, model: LanguageModel, scenario: Scenario, folder: Path) -> dict[str, Tensor]:
    """On the first rank, or alone: the whole weights after the steps, and each step's norm and loss."""
    if scenario.read is not None:
        optimizer.read(folder / scenario.read)
    said = []
    for step, number in enumerate(scenario.lanes, scenario.first):
        lanes = lanes_of(step, number)
        stats = train_lanes(
            optimizer, lanes, lambda lane: compute(None, optimizer.trained, None, lane, 0, LIMIT), LANES, step
        )
        assert [s.sequences for s in stats] == [[len(row) for row in rows(lane, LIMIT)] for lane in lanes]
        said += [optimizer.step(0.01), sum(s.loss for s in stats)]
    if scenario.write is not None:
        (folder / scenario.write).mkdir()
        optimizer.write(folder / scenario.write)
    weights = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    return weights | {"said": torch.tensor(said, dtype=torch.float64)}


def alone(scenario: Scenario, folder: Path) -> dict[str, Tensor]:
    """In this process, with whole weights."""
    model, exact = model_of(scenario)
    return play(MasterAdamW(model, SECTION, exact, lanes=2), model, scenario, folder)


def together(size: int, scenarios: Sequence[Scenario], folder: Path) -> dict[str, dict[str, Tensor]]:
    """What so many ranks end with, by the name of the scenario."""
    context = multiprocessing.get_context("spawn")
    meeting = folder / f"meeting-{size}-{scenarios[0].name}"
    meeting.mkdir()
    ranks = [context.Process(target=_rank, args=(rank, size, scenarios, folder, meeting)) for rank in range(size)]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join(240)
        if rank.is_alive():
            rank.kill()
    assert [rank.exitcode for rank in ranks] == [0] * size
    return {scenario.name: load_file(meeting / f"{scenario.name}.safetensors") for scenario in scenarios}


def _lost(rank: int, what: str) -> Exception:
    return RuntimeError(f"lost {rank}: {what}")


def _rank(rank: int, size: int, scenarios: Sequence[Scenario], folder: Path, meeting: Path) -> None:
    torch.set_num_threads(1)
    group = ShardedGroup(meeting / "meeting", rank, size, "cpu", recompute=False, lost=_lost)
    for scenario in scenarios:
        group.sharding = dataclasses.replace(group.sharding, recompute=scenario.recompute)
        model, exact = model_of(scenario)
        if rank:
            with torch.no_grad():
                for _, weight in model.named_parameters():
                    weight.fill_(torch.nan)  # theirs are sent
        optimizer = ShardedAdamW(group, model, SECTION, exact, 2, LIMIT)
        if rank:
            serve(group, optimizer, partial(_compute, optimizer))
        else:
            save_file(play(optimizer, model, scenario, folder), meeting / f"{scenario.name}.safetensors")
            group.order("end")
    group.close()
    sys.stdout.flush()


def _compute(optimizer: Optimizer, facts: Any, arrays: Arrays) -> Numbers:
    return compute(None, optimizer.trained, None, LANES.unpack(arrays), facts["step"], LIMIT)
