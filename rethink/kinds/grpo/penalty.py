"""The KL outside the loss: taken off the reward, and the controller of its coefficient; both lie in checkpoints.

kl.safetensors     where a rollout batch is half used: the KL of each token, before the first update on the batch
controller.json    where `beta` is adapted: its value
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from rethink.algorithms.kl import adapted_beta, kl_k1
from rethink.errors import RunFolderError
from rethink.kinds.grpo.collect import RolloutBatch, reweighed
from rethink.kinds.grpo.recipe import Recipe
from rethink.kinds.grpo.update import UpdateStats
from rethink.recipe.schema import AlgorithmSection

_KL, _CONTROLLER = "kl.safetensors", "controller.json"


@dataclass(slots=True)
class Penalty:
    """State of the KL penalty of a run."""

    beta: float
    """Of the present rollout batch."""
    kl: list[Tensor] | None = None
    """[T] of each rollout of the present batch that is trained on, log p_old - log p_reference in fp64; None: it is not
    in the reward."""

    def sampled(self, batch: RolloutBatch) -> list[Tensor]:
        """The KL of the tokens that the policy sampled, of each rollout."""
        assert self.kl is not None
        rollouts = [rollout for group in batch.trained_groups for rollout in group]
        return [one[rollout.trained] for one, rollout in zip(self.kl, rollouts, strict=True)]

    def metrics(self, algorithm: AlgorithmSection, batch: RolloutBatch) -> dict[str, float]:
        """What a step's row says of it."""
        found = {"policy/beta": self.beta} if algorithm.kl_target is not None else {}
        if self.kl is not None:
            tokens = torch.cat(self.sampled(batch))
            found["policy/kl"] = float(tokens.mean()) if len(tokens) else 0.0
        return found


def kl_of_tokens(old: Sequence[Tensor], reference: Sequence[Tensor]) -> list[Tensor]:
    """`Penalty.kl` from the log-probabilities [T] of each rollout, before the first update on the batch."""
    pairs = zip(old, reference, strict=True)
    return [kl_k1(before.double().cpu(), frozen.double().cpu()) for before, frozen in pairs]


def penalised(recipe: Recipe, batch: RolloutBatch, penalty: Penalty) -> RolloutBatch:
    """The batch with advantages of rewards that the KL was taken off."""
    if penalty.kl is None:
        return batch
    return reweighed(recipe, batch, [penalty.beta * one for one in penalty.kl])


def adapt(penalty: Penalty, algorithm: AlgorithmSection, batch: RolloutBatch, stats: UpdateStats, trained: int) -> None:
    """After the last update on a batch: the coefficient of the next one.

    Args:
        penalty: changed in place.
        algorithm: of the recipe.
        batch: that was trained on.
        stats: of its last update.
        trained: completions of that update.
    """
    if algorithm.kl_target is None:
        return
    if penalty.kl is None:
        kl = stats.sums.get("kl", 0.0) / max(trained, 1)
    else:
        kl = sum(float(one.sum()) for one in penalty.sampled(batch)) / len(penalty.kl)
    penalty.beta = adapted_beta(penalty.beta, kl, algorithm.kl_target, algorithm.options["kl_rate"])


def write_penalty(folder: Path, algorithm: AlgorithmSection, penalty: Penalty, *, half_used: bool) -> None:
    """Add it to a checkpoint."""
    if half_used and penalty.kl is not None:
        save_file({f"{i:06d}": one for i, one in enumerate(penalty.kl)}, folder / _KL)
    if algorithm.kl_target is not None:
        (folder / _CONTROLLER).write_text(json.dumps({"beta": penalty.beta}) + "\n")


def read_penalty(folder: Path, algorithm: AlgorithmSection) -> Penalty:
    """What a checkpoint holds of it.

    Raises:
        RunFolderError: a file is missing or cannot be read.
    """
    try:
        beta = algorithm.beta
        if algorithm.kl_target is not None:
            beta = json.loads((folder / _CONTROLLER).read_text())["beta"]
        kl = [one for _, one in sorted(load_file(folder / _KL).items())] if (folder / _KL).exists() else None
        return Penalty(beta, kl)
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise RunFolderError(f"the checkpoint `{folder}` cannot be read ({error}): it is damaged.") from error
