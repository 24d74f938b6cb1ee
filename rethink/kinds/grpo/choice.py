"""What a whole mini-batch decides of its tokens: computed before any gradient, so that no cut of it changes anything.

mini-batch ─► log-probabilities and entropies of all its tokens, no graph ─► choice ─► lanes ─► gradients
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from rethink.algorithms.selection import choose
from rethink.kinds.grpo.recipe import Recipe
from rethink.kinds.grpo.update import MiniBatch, compute_terms
from rethink.model.language_model import LanguageModel
from rethink.seeds import draw


def decided(recipe: Recipe, model: LanguageModel, mini_batch: MiniBatch, step: int, limit: int) -> MiniBatch:
    """The mini-batch with the choice of its tokens; the same one where the recipe chooses none.

    Groups that are left out for want of advantages, and tokens that the policy did not sample, have no part in it.

    Args:
        recipe: of the run.
        model: the policy.
        mini_batch: of the update.
        step: 0-based update number.
        limit: most input tokens in one pass.
    """
    if "mini-batch" not in recipe.algorithm.needs:
        return mini_batch
    kept = mini_batch.kept()
    terms = compute_terms(model, kept.groups, recipe.rollout.temperature, limit)
    rollouts = [rollout for group in kept.groups for rollout in group]
    masks = [torch.from_numpy(rollout.trained) for rollout in rollouts]
    spread = [
        torch.from_numpy(np.broadcast_to(r.advantage, len(m)).copy()) for r, m in zip(rollouts, masks, strict=True)
    ]

    def joined(values: list[torch.Tensor]) -> torch.Tensor:
        parts = [value.cpu().double()[mask] for value, mask in zip(values, masks, strict=True)]
        return torch.cat([*parts, torch.empty(0, dtype=torch.float64)])

    choice = choose(
        recipe.algorithm,
        joined([logprobs for logprobs, _ in terms]),
        joined([entropies for _, entropies in terms]),
        joined(spread),
        draw("covariance", recipe.seed, step),
    )
    lengths = [int(mask.sum()) for mask in masks]

    def apart(values_T: torch.Tensor) -> list[torch.Tensor]:
        """[length] of each rollout, 0 for tokens that are not trained."""
        parts = zip(masks, values_T.split(lengths), strict=True)
        return [part.new_zeros(len(mask)).masked_scatter_(mask, part) for mask, part in parts]

    return replace(kept, factors=apart(choice.factor_T), penalties=apart(choice.penalty_T))
