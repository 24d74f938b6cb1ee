"""A lane of groups as arrays, for a rank in another process, and what is computed there.

Axes: P prompts, N rollouts, T tokens of all their completions, M turns.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
import torch

from rethink.kinds.grpo.recipe import Recipe
from rethink.kinds.grpo.update import MiniBatch, UpdateStats, accumulate_gradients
from rethink.model.language_model import LanguageModel
from rethink.runs.ranks import Arrays
from rethink.types import Completion, Problem, Prompt, Rollout, Turn


@dataclass(frozen=True, slots=True)
class GroupWire:
    """See `rounds.Wire`."""

    step: int
    """0-based update number."""

    def pack(self, lane: MiniBatch) -> Arrays:
        """Only what training needs: ids, log-probabilities, advantages."""
        rollouts = [rollout for group in lane.groups for rollout in group]
        prompts = [np.array(group[0].prompt.token_ids, np.int32) for group in lane.groups]
        arrays: dict[str, np.ndarray[Any, Any]] = {
            "step": np.array([self.step], np.int64),
            "counted": np.array(lane.counted, np.int64),
            "groups_P": np.array([len(group) for group in lane.groups], np.int64),
            "prompt_lengths_P": np.array([len(prompt) for prompt in prompts], np.int64),
            "prompts": np.concatenate(prompts),
            "lengths_N": np.array([len(r.completion.token_ids) for r in rollouts], np.int64),
            "tokens_T": np.concatenate([r.completion.token_ids for r in rollouts]),
            "logprobs_T": np.concatenate([r.completion.logprobs for r in rollouts]),
            "advantages_T": np.concatenate(
                [np.broadcast_to(np.asarray(r.advantage, np.float64), r.completion.token_ids.shape) for r in rollouts]
            ),
            "turns_M3": np.array(
                [(i, turn.start, turn.stop) for i, r in enumerate(rollouts) for turn in r.turns], np.int64
            ).reshape(-1, 3),
        }
        if lane.old_logprobs is not None:
            arrays["old_T"] = torch.cat(list(lane.old_logprobs)).cpu().numpy()
        return arrays

    def read(self, facts: Mapping[str, Any]) -> UpdateStats:
        """See `Wire.read`."""
        return UpdateStats(**facts)


def lane_of(arrays: Arrays) -> MiniBatch:
    """Inverse of `GroupWire.pack`."""
    cuts = np.cumsum(arrays["lengths_N"])[:-1]
    tokens, logprobs, advantages = (np.split(arrays[name], cuts) for name in ("tokens_T", "logprobs_T", "advantages_T"))
    turns: list[list[Turn]] = [[] for _ in tokens]
    for rollout, start, stop in arrays["turns_M3"].tolist():
        turns[rollout].append(Turn(start, stop))
    nothing, groups = Problem("", "", "", None), []
    prompts = np.split(arrays["prompts"], np.cumsum(arrays["prompt_lengths_P"])[:-1])
    for ids, members in zip(prompts, pairwise([0, *accumulate(arrays["groups_P"].tolist())]), strict=True):
        prompt, group = Prompt("", tuple(ids.tolist())), []
        for i in range(*members):
            completion = Completion(tokens[i], "", logprobs[i], logprobs[i], "stop")
            group.append(Rollout(nothing, prompt, completion, {}, None, advantages[i], tuple(turns[i])))
        groups.append(group)
    old = [torch.from_numpy(part) for part in np.split(arrays["old_T"], cuts)] if "old_T" in arrays else None
    counted = arrays["counted"].tolist()
    return MiniBatch(groups, old, counted=(counted[0], counted[1]))


def compute(
    recipe: Recipe, model: LanguageModel, reference: LanguageModel | None, arrays: Arrays, limit: int
) -> dict[str, Any]:
    """Forward and backward of a lane that another process packed; its statistics as JSON takes them."""
    lane, step = lane_of(arrays), int(arrays["step"][0])
    return asdict(accumulate_gradients(recipe, model, reference, lane, step, limit))
