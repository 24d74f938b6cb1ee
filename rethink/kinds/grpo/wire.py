"""How trainer ranks share the steps of GRPO: a lane of groups as arrays, and what is computed of it."""

from __future__ import annotations

from itertools import islice, repeat
from typing import Any

import numpy as np
import torch

from rethink.kinds.grpo.recipe import Recipe
from rethink.kinds.grpo.update import MiniBatch, UpdateStats, accumulate_gradients, micro_batches
from rethink.machine.placement import Placement
from rethink.model.loading import Checkpoint
from rethink.rollout.engines import builder_of
from rethink.runs.lanes import Arrays, Lanes, ragged, rows_of
from rethink.types import Completion, Problem, Prompt, Rollout, SamplingMask, Turn


def build(recipe: Recipe, checkpoint: Checkpoint, placement: Placement) -> Any:
    """The policy, as the engine of the recipe makes it."""
    make = builder_of(recipe.rollout.engine, checkpoint).build
    assert make is not None
    return make(checkpoint, placement, recipe.model.trust_remote_code)


def pack(lane: MiniBatch) -> Arrays:
    """Only what training needs: ids, log-probabilities, advantages, sampling masks."""
    rollouts = [rollout for group in lane.groups for rollout in group]
    spread = [np.broadcast_to(np.asarray(r.advantage, np.float64), r.completion.token_ids.shape) for r in rollouts]
    arrays: dict[str, np.ndarray[Any, Any]] = {
        "counted": np.array(lane.counted, np.int64),
        "group sizes": np.array([len(group) for group in lane.groups], np.int64),
        **ragged("prompts", [group[0].prompt.token_ids for group in lane.groups], np.int32),
        **ragged("tokens", [r.completion.token_ids for r in rollouts]),
        **ragged("logprobs", [r.completion.behaviour_logprobs for r in rollouts]),
        **ragged("advantages", spread),
        **ragged("turns", [[end for turn in r.turns for end in (turn.start, turn.stop)] for r in rollouts], np.int64),
    }
    if lane.beta is not None:
        arrays["beta"] = np.array(lane.beta)
    for name, rows in (("old", lane.old_logprobs), ("factors", lane.factors), ("penalties", lane.penalties)):
        if rows is not None:
            arrays |= ragged(name, [values.cpu().numpy() for values in rows])
    if masks := [r.completion.mask for r in rollouts if r.completion.mask is not None]:
        arrays |= ragged("mask counts", [mask.counts for mask in masks]) | ragged("mask ids", [m.ids for m in masks])
    return arrays


def unpack(arrays: Arrays) -> MiniBatch:
    """Inverse of `pack`."""
    masked = "mask ids" in arrays
    masks = (
        map(SamplingMask, *(rows_of(arrays, f"mask {name}") for name in ("counts", "ids"))) if masked else repeat(None)
    )
    of_each = zip(
        *(rows_of(arrays, name) for name in ("tokens", "logprobs", "advantages", "turns")), masks, strict=masked
    )
    groups = []
    for ids, size in zip(rows_of(arrays, "prompts"), arrays["group sizes"].tolist(), strict=True):
        prompt = Prompt("", tuple(ids.tolist()))
        groups.append([_rollout(prompt, *values) for values in islice(of_each, size)])
    old, factors, penalties = (
        [torch.from_numpy(values) for values in rows_of(arrays, name)] if name in arrays else None
        for name in ("old", "factors", "penalties")
    )
    completions, tokens = arrays["counted"].tolist()
    beta = float(arrays["beta"]) if "beta" in arrays else None
    counted = (completions, tokens)
    return MiniBatch(groups, old, counted=counted, factors=factors, penalties=penalties, beta=beta)


def _rollout(
    prompt: Prompt, tokens: Any, logprobs: Any, advantages: Any, turns: Any, mask: SamplingMask | None
) -> Rollout:
    completion = Completion(tokens, "", logprobs, logprobs, "stop", mask=mask)
    sampled = tuple(Turn(start, stop) for start, stop in turns.reshape(-1, 2).tolist())
    return Rollout(Problem("", "", "", None), prompt, completion, {}, None, advantages, sampled)


def pieces(lane: MiniBatch, limit: int) -> list[int]:
    """See `Lanes.pieces`."""
    made = micro_batches(lane.kept().groups, limit, torch.device("cpu"))
    return [sum(length > 0 for length in micro.batch.lengths) for micro in made]


LANES = Lanes(build, accumulate_gradients, pack, unpack, UpdateStats, pieces)
