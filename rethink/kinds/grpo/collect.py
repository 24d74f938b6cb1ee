"""One rollout batch: what it asks (`plan`), sampled and scored, put together (`assemble`); or read back after a resume.

Axes: P prompts of the batch, G group size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from rethink.algorithms.advantages import group_advantages, no_signal_groups
from rethink.kinds.grpo.lag import sampled_by
from rethink.kinds.grpo.recipe import Recipe
from rethink.model.text.prompt import PromptRenderer
from rethink.recipe.schema import RolloutSection
from rethink.rewards.rubric import Rubric
from rethink.rollout.engine import RolloutEngine
from rethink.rollout.sampler import Asked, sample
from rethink.seeds import draw
from rethink.store.run_folder import RunFolder
from rethink.tasks.mix import TaskMix
from rethink.types import Rollout, SamplingParams


@dataclass(frozen=True, slots=True)
class RolloutBatch:
    """P groups of G rollouts, in order, and how long they took."""

    index: int
    groups: tuple[tuple[Rollout, ...], ...]
    no_signal: tuple[bool, ...]
    """By group: every reward equal (or fewer than two rewards), so no gradient."""
    rollout_seconds: float = 0.0
    reward_seconds: float = 0.0
    """0 where it was read back."""

    @property
    def versions(self) -> set[int | None]:
        """Of the policy that sampled it: one, unless something is wrong."""
        return {rollout.completion.version for rollout in self.rollouts}

    @property
    def rollouts(self) -> list[Rollout]:
        """All rollouts, group after group."""
        return [rollout for group in self.groups for rollout in group]


@dataclass(frozen=True, slots=True)
class Sources:
    """What a batch is made of."""

    mix: TaskMix
    renderer: PromptRenderer
    engine: RolloutEngine
    rubric: Rubric
    stop_token_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class BatchPlan:
    """What a batch asks: a function of the recipe and the batch's index alone."""

    index: int
    step: int
    """The first update (from 0) that uses the batch."""
    asked: tuple[Asked, ...]
    params: SamplingParams


def collect(recipe: Recipe, sources: Sources, folder: RunFolder, index: int) -> RolloutBatch:
    """The rollout batch of that index.

    A batch that is already on disk (a run was killed after sampling it) is read back: its token ids, and the outcomes
    of its rewards, which may have depended on the clock, are facts by now.
    """
    recorded = folder.read_rollouts(index)
    if recorded is not None:
        return assemble(recipe, index, recorded)
    planned = plan(recipe, sources, index)
    sampled = sample(sources.engine, sources.rubric, planned.asked, planned.params, step=planned.step)
    sources.rubric.check_failures(sampled.rollouts)
    batch = assemble(recipe, index, sampled.rollouts)
    folder.write_rollouts(index, batch.rollouts, {"step": planned.step + 1})
    return replace(batch, rollout_seconds=sampled.rollout_seconds, reward_seconds=sampled.reward_seconds)


def plan(recipe: Recipe, sources: Sources, index: int) -> BatchPlan:
    """What the batch of that index asks."""
    step, group = index * recipe.steps_per_batch, range(recipe.rollout.group_size)
    version = sampled_by(index, recipe.rollout.lag) * recipe.steps_per_batch
    problems = sources.mix.train_batch(index, recipe.rollout.prompts_per_batch, step)
    asked = tuple(
        Asked(
            problem,
            sources.renderer.render(problem),
            tuple(draw("rollout", recipe.seed, index, place, number) for number in group),
            version,
        )
        for place, problem in enumerate(problems)
    )
    return BatchPlan(index, step, asked, sampling_params(recipe.rollout, sources, step))


def assemble(recipe: Recipe, index: int, rollouts: Sequence[Rollout]) -> RolloutBatch:
    """The batch of these rollouts, in the order of its plan: groups with their advantages."""
    size = recipe.rollout.group_size
    rewards_PG = torch.tensor([r.reward or 0.0 for r in rollouts], dtype=torch.float64).view(-1, size)
    valid_PG = torch.tensor([r.reward is not None for r in rollouts]).view(-1, size)
    advantages = group_advantages(rewards_PG, recipe.algorithm.advantage, valid_PG).reshape(-1).tolist()
    weighed = [replace(rollout, advantage=a) for rollout, a in zip(rollouts, advantages, strict=True)]
    groups = tuple(tuple(weighed[i : i + size]) for i in range(0, len(weighed), size))
    return RolloutBatch(index, groups, tuple(no_signal_groups(rewards_PG, valid_PG).tolist()))


def sampling_params(r: RolloutSection, sources: Sources, step: int) -> SamplingParams:
    """How the rollouts for `step` are drawn."""
    return SamplingParams(
        r.temperature, r.top_p, r.top_k, r.max_new_tokens_at(step), r.stop_strings, sources.stop_token_ids
    )
