"""One rollout batch: what its rounds ask (`plan`), sampled and scored, put together (`assemble`); or read back after a
resume.

    position ─► plan ─► sample ─► which groups have a signal? ─► enough, or no round left: assemble ─► file
                  ▲                            │
                  └──── further problems ◄─────┘

Axes: P groups of the batch, G group size.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from rethink.errors import SignalFailure
from rethink.kinds.grpo import baseline
from rethink.kinds.grpo.lag import sampled_by
from rethink.kinds.grpo.positions import Positions
from rethink.kinds.grpo.recipe import Recipe
from rethink.kinds.grpo.rounds import round_size, rounds_of, trained_places
from rethink.kinds.grpo.weigh import Groups, weighed, without_signal
from rethink.model.text.prompt import PromptRenderer
from rethink.recipe.schema import RolloutSection
from rethink.recipe.terms import ADVANTAGES
from rethink.rewards.rubric import Rubric
from rethink.rollout.engine import RolloutEngine
from rethink.rollout.sampler import Asked, sample
from rethink.seeds import draw
from rethink.store.run_folder import RunFolder
from rethink.tasks.mix import Position, TaskMix
from rethink.types import Rollout, SamplingParams

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class RolloutBatch:
    """Groups of G rollouts, in the order in which they were asked, and how long they took."""

    index: int
    groups: Groups
    no_signal: tuple[bool, ...]
    """By group: nothing that its advantages could be of, so no gradient: mostly rewards that are all equal."""
    trained: tuple[int, ...]
    """Places of the groups that are trained on."""
    baselines: tuple[float | None, ...] = ()
    """Of each group, where they are not of its own rollouts."""
    rounds: int = 1
    """Of sampling."""
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

    @property
    def trained_groups(self) -> list[tuple[Rollout, ...]]:
        """Those that are trained on, in order."""
        return [self.groups[place] for place in self.trained]


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
    """What a round of a batch asks: a function of the recipe and of where the batch begins."""

    index: int
    step: int
    """The first update (from 0) that uses the batch."""
    asked: tuple[Asked, ...]
    params: SamplingParams


def collect(recipe: Recipe, sources: Sources, folder: RunFolder, positions: Positions, index: int) -> RolloutBatch:
    """The rollout batch of that index.

    A batch that is already on disk (a run was killed after sampling it) is read back: its token ids, and the outcomes
    of its rewards, which may have depended on the clock, are facts by now.

    Raises:
        SignalFailure: too few of its groups have a signal.
    """
    recorded, size = folder.read_rollouts(index), recipe.rollout.group_size
    if recorded is not None:
        outside = ADVANTAGES[recipe.algorithm.advantage].outside
        return assemble(recipe, index, recorded, baseline.recorded(folder, index, size) if outside else ())
    batch = with_baselines(recipe, sources, folder, sample_rounds(recipe, sources, positions.before(index)))
    extra: dict[str, Any] = {"step": index * recipe.steps_per_batch + 1}
    if recipe.rollout.dynamic_sampling is not None:
        extra["trained"] = [place in batch.trained for place, group in enumerate(batch.groups) for _ in group]
    if batch.baselines:
        extra[baseline.COLUMN] = [value for value in batch.baselines for _ in range(size)]
    folder.write_rollouts(index, batch.rollouts, extra, group_size=size)
    return batch


def with_baselines(recipe: Recipe, sources: Sources, folder: RunFolder, batch: RolloutBatch) -> RolloutBatch:
    """The batch with the baselines that its advantages need and that are not of its rollouts, and these advantages.

    Raises:
        RunFolderError: as `moving_average`.
    """
    of_kind = _BASELINES.get(recipe.algorithm.advantage)
    if of_kind is None:
        return batch
    baselines, seconds = of_kind(recipe, sources, folder, batch)
    known = replace(batch, baselines=tuple(baselines), rollout_seconds=batch.rollout_seconds + seconds)
    return reweighed(recipe, known)


def _moving_average(
    recipe: Recipe, sources: Sources, folder: RunFolder, batch: RolloutBatch
) -> tuple[list[float | None], float]:
    return [baseline.moving_average(folder, batch.index)] * len(batch.groups), 0.0


def _greedy(
    recipe: Recipe, sources: Sources, folder: RunFolder, batch: RolloutBatch
) -> tuple[list[float | None], float]:
    step = batch.index * recipe.steps_per_batch
    params = sampling_params(recipe.rollout, sources, step)
    return baseline.greedy(sources.engine, sources.rubric, batch.groups, params, step)


_BASELINES = {"moving-average": _moving_average, "greedy": _greedy}


def sample_rounds(recipe: Recipe, sources: Sources, position: Position) -> RolloutBatch:
    """Sample and score, round after round, until enough groups have a signal or the recipe allows no further round.

    Raises:
        SignalFailure: there are too few then, and the recipe says to stop.
    """
    rollout, bounds = recipe.rollout, recipe.rollout.sampling_rounds
    batch, rollouts = RolloutBatch(position.batch, (), (), (), rounds=0), list[Rollout]()
    while size := round_size(batch.no_signal, rollout.prompts_per_batch, bounds.prompts_per_round or 0):
        if batch.rounds == bounds.max_rounds:
            if bounds.when_short == "stop":
                raise _too_few(batch, rollout.prompts_per_batch)
            break
        asked = len(batch.groups)
        planned = plan(recipe, sources, position, range(asked, asked + size))
        sampled = sample(sources.engine, sources.rubric, planned.asked, planned.params, step=planned.step)
        rollouts += sampled.rollouts
        sources.rubric.check_failures(rollouts)
        batch = replace(
            assemble(recipe, position.batch, rollouts),
            rollout_seconds=batch.rollout_seconds + sampled.rollout_seconds,
            reward_seconds=batch.reward_seconds + sampled.reward_seconds,
        )
    return batch


def _too_few(batch: RolloutBatch, wanted: int) -> SignalFailure:
    silent = sum(batch.no_signal)
    rewards = [r.reward for group, no in zip(batch.groups, batch.no_signal, strict=True) if no for r in group]
    mean = statistics.fmean(reward or 0.0 for reward in rewards)
    there = len(batch.groups) - silent
    return SignalFailure(
        f"{silent} of the {len(batch.groups)} groups ({silent / len(batch.groups):.0%}) that were sampled for rollout "
        f"batch {batch.index} have no signal, so after {batch.rounds} rounds it has {there} of the {wanted} groups "
        f"that it needs. The mean reward of those without signal is {mean:.3g}. Where that is low, take easier "
        "problems, an example in the prompt or a larger rollout.group_size; where it is high, harder problems. What "
        "was saved stays, and --resume continues the run. rollout.dynamic_sampling.max_rounds may then be another; "
        "with rollout.dynamic_sampling.when_short=fill groups without signal fill up such a batch"
    )


def plan(recipe: Recipe, sources: Sources, position: Position, places: range) -> BatchPlan:
    """What a batch asks at these places."""
    index, group = position.batch, range(recipe.rollout.group_size)
    step = index * recipe.steps_per_batch
    version = sampled_by(index, recipe.rollout.lag) * recipe.steps_per_batch
    asked = tuple(
        Asked(
            problem,
            sources.renderer.render(problem),
            tuple(draw("rollout", recipe.seed, index, place, number) for number in group),
            version,
        )
        for place, problem in zip(places, sources.mix.problems(position, places, step), strict=True)
    )
    return BatchPlan(index, step, asked, sampling_params(recipe.rollout, sources, step))


def assemble(
    recipe: Recipe, index: int, rollouts: Sequence[Rollout], baselines: Sequence[float | None] = ()
) -> RolloutBatch:
    """The batch of these rollouts, in the order of its plans: advantages of the groups, and which are trained on.

    Advantages that are normalised over the batch are so over the groups that are trained on, and others have none.
    Without the baselines that a kind of advantage needs there are none yet.

    Raises:
        RewardFailure: as `weighed`.
    """
    wanted, bounds = recipe.rollout.prompts_per_batch, recipe.rollout.sampling_rounds
    no_signal = tuple(without_signal(recipe, rollouts))
    rounds = rounds_of(no_signal, wanted, bounds.prompts_per_round or 0)
    trained, size = trained_places(no_signal, wanted), recipe.rollout.group_size
    kind = ADVANTAGES[recipe.algorithm.advantage]
    if not kind.over_batch and not kind.outside:
        return RolloutBatch(index, weighed(recipe, rollouts), no_signal, trained, rounds=rounds)
    groups = tuple(tuple(rollouts[i : i + size]) for i in range(0, len(rollouts), size))
    batch = RolloutBatch(index, groups, no_signal, trained, tuple(baselines), rounds)
    return batch if kind.outside and not baselines else reweighed(recipe, batch)


def reweighed(recipe: Recipe, batch: RolloutBatch, penalties: Sequence[Tensor] | None = None) -> RolloutBatch:
    """The batch with advantages of the groups that are trained on alone; `penalties`: of their rollouts (`weighed`)."""
    rollouts = [rollout for group in batch.trained_groups for rollout in group]
    baselines = [batch.baselines[place] for place in batch.trained] if batch.baselines else []
    groups = dict(zip(batch.trained, weighed(recipe, rollouts, penalties, baselines), strict=True))
    return replace(batch, groups=tuple(groups.get(place, group) for place, group in enumerate(batch.groups)))


def sampling_params(r: RolloutSection, sources: Sources, step: int) -> SamplingParams:
    """How the rollouts for `step` are drawn."""
    return SamplingParams(
        r.temperature,
        r.top_p,
        r.top_k,
        r.max_new_tokens_at(step),
        r.stop_strings,
        sources.stop_token_ids,
        r.keep_sampling_mask,
    )
