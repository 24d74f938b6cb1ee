"""The critic of a run: its values of a rollout batch, the advantages that follow, and its own training on the batch.

    rollout batch ─► values ─┬─► advantages of tokens ─► the policy's updates
                             └─► returns ─► the critic's updates, all before the policy's first on the batch

Policy and critic share no weights, and both learn from values that were computed before either was updated. So the
order of their updates decides nothing.

Trainer ranks share the policy's work. The critic's is the first rank's alone, so that its bits are the same on any
number of them.

Axes: C completion tokens of a micro-batch, T trained tokens of the rollouts with a reward, N these rollouts.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from rethink.algorithms.gae import adaptive_lambda, explained_variance, gae, value_loss, whitened
from rethink.errors import NumericsError, RecipeError, UsageError
from rethink.kernels.trace import traced
from rethink.kinds.grpo.collect import RolloutBatch
from rethink.kinds.grpo.recipe import CriticSection, Recipe
from rethink.kinds.grpo.update import Group, MicroBatch, group_order, micro_batches
from rethink.machine.placement import Placement
from rethink.model.build import exact_weights
from rethink.model.decoder.config import DecoderConfig
from rethink.model.heads.value_head import RewardModel, build_reward_model
from rethink.model.loading import Checkpoint, load_checkpoint
from rethink.recipe.checks import check_against_context
from rethink.runs.inputs import model_hash
from rethink.runs.loop import Row
from rethink.runs.optimizer import MasterAdamW
from rethink.runs.ranks import FSDP2, launch_here
from rethink.types import Rollout

STATE_FILE, ADVANTAGES_FILE = "critic.safetensors", "critic_advantages.safetensors"
"""In a checkpoint: weights and optimizer; the advantages of a batch that is half used."""


@dataclass(slots=True)
class Critic:
    """What judges and learns, of a run."""

    recipe: Recipe
    section: CriticSection
    model: RewardModel
    optimizer: MasterAdamW
    limit: int
    """Most input tokens in one pass."""
    judged: int | None = None
    """The batch that it has judged, and learnt from."""
    advantages: Sequence[Tensor] = ()
    """[length] of each rollout of that batch that is trained on."""


@dataclass(frozen=True, slots=True, eq=False)
class Target:
    """What is to be learnt of a rollout's tokens; [length] each, on the critic's device."""

    values: Tensor
    """By the critic before its first update on the batch."""
    returns: Tensor
    trained: Tensor
    """bool: whether the policy sampled the token."""


# --- before anything slow -------------------------------------------------------------------------------------------


def check_ranks(recipe: Recipe) -> None:
    """Refuse a critic where trainer ranks shard weights.

    Raises:
        UsageError: says what to change.
    """
    launch = launch_here()
    if recipe.critic is not None and launch is not None and launch.strategy == FSDP2:
        raise UsageError(
            "`strategy: fsdp2` shards the policy's weights, and the critic's cannot be sharded. Leave `trainer` out of "
            "the cluster file (ranks that replicate weights train with a critic), or train without one "
            "(`algorithm.type=grpo`, no section `critic`)"
        )


def find_critic(recipe: Recipe, policy: Checkpoint, *, headers_only: bool = False) -> Checkpoint | None:
    """The model that the critic begins as; None: there is no critic.

    Args:
        recipe: of the run.
        policy: its model.
        headers_only: see `load_checkpoint`.

    Raises:
        UsageError: it cannot be found, cannot carry a value head, has another tokenizer than the policy, or a context
            that the recipe's completions do not fit into.
    """
    if recipe.critic is None:
        return None
    path = recipe.critic.model
    found = policy if path is None else load_checkpoint(path, headers_only=headers_only)
    if found.config is None:
        raise RecipeError(
            f"{found.source} cannot carry the critic's value head: {found.reason}. Name a model of the Llama, Qwen2, "
            "Qwen3 or Mistral architecture in `critic.model`, with the policy's tokenizer"
        )
    if path is None:
        return found
    own, other = (checkpoint.tokenizer.backend.get_vocab() for checkpoint in (policy, found))
    if own != other:
        alike = sum(other.get(token) == place for token, place in own.items())
        raise RecipeError(
            f"`critic.model` is {path}, whose tokenizer differs from that of `model.path` ({policy.source}): "
            f"{alike} of {len(own)} tokens have the same id. A critic reads the policy's own ids, so choose a model "
            "with the same tokenizer (such as a reward model trained from the policy), or remove `critic.model`"
        )
    check_against_context(recipe.prompt, recipe.token_limits(), found.config.max_position_embeddings)
    return found


def critic_hash(recipe: Recipe, policy: Checkpoint) -> dict[str, str]:
    """As `model_hash`, of the critic's model. Raises as `find_critic`."""
    found = find_critic(recipe, policy)
    if found is None or recipe.critic is None or recipe.critic.model is None:
        return {}
    return model_hash(recipe.critic.model, found.folder, "critic.model")


def critic_config(recipe: Recipe, policy: Checkpoint) -> DecoderConfig | None:
    """Of the critic's model; None: there is no critic. Raises as `find_critic`."""
    found = find_critic(recipe, policy)
    return None if found is None else found.config


def open_critic(recipe: Recipe, policy: Checkpoint, placement: Placement, choices: Mapping[str, Any]) -> Critic | None:
    """The critic of a run as it begins; None: there is none."""
    found = find_critic(recipe, policy)
    if found is None or recipe.critic is None:
        return None
    model = build_reward_model(found, placement.dtype, placement.device, seed=None)
    optimizer = MasterAdamW(model, recipe.optimizer, exact_weights(found, model.decoder))
    return Critic(recipe, recipe.critic, model, optimizer, int(choices["micro_batch_tokens"]))


# --- a batch --------------------------------------------------------------------------------------------------------


def judge(critic: Critic, batch: RolloutBatch, penalties: Sequence[Tensor] | None = None) -> tuple[RolloutBatch, Row]:
    """The batch with an advantage of each token of the groups that are trained on, and what there is to say of the
    critic.

    The first time that it sees a batch, it learns from it too; a run that goes on in the midst of one finds advantages
    and critic as they were.

    Args:
        critic: of the run.
        batch: as it was sampled.
        penalties: [length] of each rollout that is trained on, taken off the rewards of its tokens; None: nothing is.

    Raises:
        NumericsError: a loss or a gradient is not finite.
    """
    row: Row = {}
    if critic.judged != batch.index:
        started = time.perf_counter()
        row = _learn(critic, batch, penalties)
        row["time/critic"] = time.perf_counter() - started
    each = iter(critic.advantages)
    groups, silent = list(batch.groups), list(batch.no_signal)
    for place in batch.trained:
        groups[place] = tuple(replace(r, advantage=next(each).numpy()) for r in groups[place])
        silent[place] = all(r.reward is None for r in groups[place])
    return replace(batch, groups=tuple(groups), no_signal=tuple(silent)), row


@traced("critic")
def _learn(critic: Critic, batch: RolloutBatch, penalties: Sequence[Tensor] | None) -> Row:
    groups = [[r for r in group if r.reward is not None] for group in batch.trained_groups]
    values = values_of(critic, groups)
    rollouts = [r for group in batch.trained_groups for r in group]
    if penalties is not None:
        penalties = [p for p, rollout in zip(penalties, rollouts, strict=True) if rollout.reward is not None]
    advantages, targets, row = estimated(critic.section, [r for g in groups for r in g], values, penalties)
    row |= _train(critic, groups, targets, batch.index)
    found = iter(advantages)
    critic.advantages = [
        torch.zeros(len(r.completion.token_ids), dtype=torch.float64) if r.reward is None else next(found)
        for r in rollouts
    ]
    critic.judged = batch.index
    return row


def values_of(critic: Critic, groups: Sequence[Group]) -> list[Tensor]:
    """Values [length] of each rollout's tokens, group after group; no graph."""
    out: list[Tensor] = []
    with torch.no_grad():
        for micro in micro_batches([g for g in groups if g], critic.limit, critic.model.device):
            out += critic.model.values(micro.batch).split(list(micro.batch.lengths))
    return out


def estimated(
    section: CriticSection,
    rollouts: Sequence[Rollout],
    values: Sequence[Tensor],
    penalties: Sequence[Tensor] | None = None,
) -> tuple[list[Tensor], list[Target], Row]:
    """Advantages [length] of each rollout (fp64; 0 at tokens that the policy did not sample), what the critic is to
    learn, and metrics of its values.

    The reward is the last trained token's. What the policy did not sample is left out, as if it was not there.

    Args:
        section: of the recipe.
        rollouts: N, all with a reward.
        values: [length] of each.
        penalties: [length] of each, taken off the reward of each token; None: nothing is.
    """
    masks = [torch.from_numpy(r.trained) for r in rollouts]
    lengths_N = torch.tensor([int(mask.sum()) for mask in masks], dtype=torch.long)
    values_T = _joined([v.double().cpu()[mask] for v, mask in zip(values, masks, strict=True)])
    rewards_T, has_tokens = torch.zeros_like(values_T), lengths_N > 0
    rewards_N = torch.tensor([r.reward for r in rollouts], dtype=torch.float64)
    rewards_T[lengths_N.cumsum(0)[has_tokens] - 1] = rewards_N[has_tokens]
    if penalties is not None:
        rewards_T -= _joined([p.double().cpu()[mask] for p, mask in zip(penalties, masks, strict=True)])
    lambda_N = lambdas(section, lengths_N)
    learnt_N = lambda_N if section.value_lambda is None else torch.full_like(lambda_N, section.value_lambda)
    advantages_T = gae(rewards_T, values_T, lengths_N, section.gamma, lambda_N)
    returns_T = values_T + gae(rewards_T, values_T, lengths_N, section.gamma, learnt_N)
    said = _said(values_T, returns_T)
    if section.whiten:
        advantages_T = whitened(advantages_T)
    sizes = lengths_N.tolist()
    advantages = [_spread(part, mask) for part, mask in zip(advantages_T.split(sizes), masks, strict=True)]
    targets = [
        Target(v, _spread(part, mask).to(v.device, v.dtype), mask.to(v.device))
        for v, part, mask in zip(values, returns_T.split(sizes), masks, strict=True)
    ]
    return advantages, targets, said


def lambdas(section: CriticSection, lengths_N: Tensor) -> Tensor:
    """[N] lambda of each completion's advantages, fp64."""
    if section.adaptive_lambda is not None:
        return adaptive_lambda(lengths_N, section.adaptive_lambda)
    return torch.full(lengths_N.shape, section.gae_lambda, dtype=torch.float64)


def _joined(parts: Sequence[Tensor]) -> Tensor:
    return torch.cat(list(parts)) if parts else torch.zeros(0, dtype=torch.float64)


def _spread(values: Tensor, mask: Tensor) -> Tensor:
    return torch.zeros(len(mask), dtype=values.dtype).masked_scatter(mask, values)


def _said(values_T: Tensor, returns_T: Tensor) -> Row:
    if not len(values_T):
        return {}
    row = {"critic/value": float(values_T.mean()), "critic/return": float(returns_T.mean())}
    explained = explained_variance(values_T, returns_T)
    return row if math.isnan(explained) else row | {"critic/explained_variance": explained}


def _train(critic: Critic, groups: Sequence[Group], targets: Sequence[Target], index: int) -> Row:
    """The critic's updates on a batch. `targets`: of the groups' rollouts, in order."""
    section, each = critic.section, iter(targets)
    by_group = [[next(each) for _ in group] for group in groups]
    seed, losses, clipped, norms, tokens = critic.recipe.seed, 0.0, 0.0, [], 0
    for epoch in range(section.epochs):
        order = group_order("critic mini-batches", seed, index, epoch, len(groups), section.mini_batches)
        for chosen in order:
            wanted = [target for place in chosen for target in by_group[place]]
            counted = sum(int(target.trained.sum()) for target in wanted)
            if not counted:
                continue
            loss, held = accumulate_value_gradients(critic, [groups[p] for p in chosen], wanted, counted)
            losses, clipped, tokens = losses + loss * counted, clipped + held, tokens + counted
            norms.append(critic.optimizer.step(section.learning_rate))
    if not tokens:
        return {}
    return {"critic/loss": losses / tokens, "critic/clipped": clipped / tokens, "critic/grad_norm": max(norms)}


def accumulate_value_gradients(
    critic: Critic, groups: Sequence[Group], targets: Sequence[Target], counted: int
) -> tuple[float, float]:
    """Forward and backward of the value loss, the mean over the trained tokens of an update.

    Args:
        critic: gradients go where its parameters' hooks put them.
        groups: of the update.
        targets: of their rollouts, in order.
        counted: trained tokens of the update.

    Returns:
        (the loss; tokens whose value the clip holds).

    Raises:
        NumericsError: the loss is not finite.
    """
    total = held = 0.0
    for micro in micro_batches([g for g in groups if g], critic.limit, critic.model.device):
        loss, held_C = _loss_of(critic, micro, targets)
        value = float(loss.detach()) / counted
        if not math.isfinite(value):
            raise NumericsError(
                f"the critic's loss is {value}, so it was not updated; what was saved is untouched. Start anew with "
                "another --out and a lower critic.learning_rate, or with model.dtype=float32"
            )
        (loss / counted).backward()
        total, held = total + value, held + float(held_C.sum())
    return total, held


def _loss_of(critic: Critic, micro: MicroBatch, targets: Sequence[Target]) -> tuple[Tensor, Tensor]:
    """Sum of the value losses of a micro-batch's trained tokens; [T] bool: the clip holds."""
    known = targets[micro.first : micro.first + len(micro.rollouts)]
    use = torch.cat([target.trained for target in known])
    old, returns = (torch.cat(parts)[use] for parts in ([t.values for t in known], [t.returns for t in known]))
    losses, held = value_loss(critic.model.values(micro.batch)[use], old, returns, critic.section.value_clip)
    return losses.sum(), held


# --- checkpoints ----------------------------------------------------------------------------------------------------


def write_critic(critic: Critic, folder: Path, *, half_used: bool) -> None:
    """Add the critic to a checkpoint; the advantages of its batch too, where that is half used."""
    save_file({name: t.contiguous() for name, t in critic.optimizer.state().items()}, folder / STATE_FILE)
    if half_used:
        save_file({f"{i:06d}": t for i, t in enumerate(critic.advantages)}, folder / ADVANTAGES_FILE)


def read_critic(critic: Critic, folder: Path, step: int) -> None:
    """Inverse of `write_critic`. `step`: of the checkpoint. Raises what safetensors does, and `RunFolderError`."""
    critic.optimizer.load(load_file(folder / STATE_FILE))
    critic.judged, critic.advantages = None, ()
    index, position = divmod(step, critic.recipe.steps_per_batch)
    if position:
        critic.advantages = [t for _, t in sorted(load_file(folder / ADVANTAGES_FILE).items())]
        critic.judged = index
