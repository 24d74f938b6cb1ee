"""A lane of groups as arrays, for a rank in another process, and what is computed there.

Axes: P prompts, N rollouts, T tokens of all their completions.
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
from rethink.types import Completion, Problem, Prompt, Rollout


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
            "advantages_N": np.array([r.advantage for r in rollouts], np.float64),
        }
        if lane.old_logprobs is not None:
            arrays["old_T"] = torch.cat(list(lane.old_logprobs)).cpu().numpy()
        return arrays

    def read(self, facts: Mapping[str, Any]) -> UpdateStats:
        """See `Wire.read`."""
        return UpdateStats(**facts)


def lane_of(arrays: Arrays) -> MiniBatch:
    """Inverse of `GroupWire.pack`."""
    prompts = np.split(arrays["prompts"], np.cumsum(arrays["prompt_lengths_P"])[:-1])
    cuts = np.cumsum(arrays["lengths_N"])[:-1]
    columns = zip(
        np.split(arrays["tokens_T"], cuts), np.split(arrays["logprobs_T"], cuts), arrays["advantages_N"], strict=True
    )
    nothing = Problem("", "", "", None)
    made = [
        (Completion(tokens, "", logprobs, logprobs, "stop"), float(advantage))
        for tokens, logprobs, advantage in columns
    ]
    groups = []
    for ids, (start, end) in zip(prompts, pairwise([0, *accumulate(arrays["groups_P"].tolist())]), strict=True):
        prompt = Prompt("", tuple(ids.tolist()))
        groups.append([Rollout(nothing, prompt, completion, {}, None, a) for completion, a in made[start:end]])
    old = None
    if "old_T" in arrays:
        old = [torch.from_numpy(part) for part in np.split(arrays["old_T"], cuts)]
    completions, tokens = arrays["counted"].tolist()
    return MiniBatch(groups, old, counted=(completions, tokens))


def compute(
    recipe: Recipe, model: LanguageModel, reference: LanguageModel | None, arrays: Arrays, limit: int
) -> dict[str, Any]:
    """Forward and backward of a lane that another process packed; its statistics as JSON takes them."""
    lane, step = lane_of(arrays), int(arrays["step"][0])
    return asdict(accumulate_gradients(recipe, model, reference, lane, step, limit))
