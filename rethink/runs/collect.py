"""One rollout batch: problems, prompts, completions, rewards, advantages; or the same, read back after a resume.

Axes: P prompts of the batch, G group size.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from rethink.algorithms.advantages import group_advantages, no_signal_groups
from rethink.errors import EngineFailure, RethinkError
from rethink.kernels.trace import span, traced
from rethink.model.chat import PromptRenderer
from rethink.recipe.schema import Recipe
from rethink.rewards.rubric import Rubric
from rethink.rollout.engine import OnFinish, RolloutEngine
from rethink.store.run_folder import RunFolder
from rethink.tasks.mix import TaskMix
from rethink.types import GenerationRequest, Rollout, SamplingParams


@dataclass(frozen=True, slots=True)
class RolloutBatch:
    """P groups of G rollouts, in order, and how long they took."""

    index: int
    groups: tuple[tuple[Rollout, ...], ...]
    no_signal: tuple[bool, ...]
    """By group: every reward equal (or fewer than two rewards), so no gradient."""
    rollout_seconds: float
    reward_seconds: float

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


def sample_seed(*parts: int) -> int:
    """A 63-bit seed that depends on all of its parts: which run, batch, prompt and sample."""
    digest = hashlib.blake2b(",".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def collect(recipe: Recipe, sources: Sources, folder: RunFolder, index: int, step: int) -> RolloutBatch:
    """The rollout batch that the updates from `step` on use.

    A batch that is already on disk (a run was killed after sampling it) is read back: its token ids, and the outcomes
    of its rewards, which may have depended on the clock, are facts by now.
    """
    recorded = folder.read_rollouts(index)
    if recorded is not None:
        return _batch(recipe, index, recorded, 0.0, 0.0)
    started = time.perf_counter()
    problems = sources.mix.train_batch(index, recipe.rollout.prompts_per_batch, step)
    prompts = [sources.renderer.render(problem) for problem in problems]
    params = sampling_params(recipe, sources, step)
    group = range(recipe.rollout.group_size)
    requests = [
        GenerationRequest(prompt.token_ids, tuple(sample_seed(recipe.seed, index, p, g) for g in group), params)
        for p, prompt in enumerate(prompts)
    ]
    scoring = sources.rubric.scoring(problems, prompts, len(group), step=step)
    completions = run_engine(sources.engine, requests, scoring.add)  # rewards begin as rollouts finish
    generated = time.perf_counter()
    rollouts = []
    with span("rewards"):
        for problem, prompt, samples, scored_ones in zip(
            problems, prompts, completions, scoring.results(completions), strict=True
        ):
            for completion, (outcomes, reward) in zip(samples, scored_ones, strict=True):
                rollouts.append(Rollout(problem, prompt, completion, outcomes, reward))
        sources.rubric.check_failures(rollouts)
        rollouts = _with_advantages(recipe, rollouts)
    scored = time.perf_counter()
    folder.write_rollouts(index, rollouts, {"step": step + 1})
    return _batch(recipe, index, rollouts, generated - started, scored - generated)


def sampling_params(recipe: Recipe, sources: Sources, step: int) -> SamplingParams:
    """How the rollouts for `step` are drawn."""
    r = recipe.rollout
    return SamplingParams(
        r.temperature, r.top_p, r.top_k, recipe.max_new_tokens_at(step), r.stop_strings, sources.stop_token_ids
    )


@traced("rollout")
def run_engine(engine: RolloutEngine, requests: Sequence[GenerationRequest], on_finish: OnFinish):  # type: ignore[no-untyped-def]
    """Generate; whatever breaks inside an engine becomes an EngineFailure that says what was asked of it."""
    try:
        return engine.generate(requests, on_finish)
    except (RethinkError, KeyboardInterrupt):
        raise
    except Exception as error:
        total = sum(request.n for request in requests)
        raise EngineFailure(
            f"the rollout engine failed while sampling {total} completions of {len(requests)} prompts "
            f"({type(error).__name__}: {error}); the run is sound up to its last checkpoint: go on with --resume, "
            "with a lower rollout.max_concurrent or rollout.kv_budget_gb if memory ran out"
        ) from error


def _with_advantages(recipe: Recipe, rollouts: list[Rollout]) -> list[Rollout]:
    rewards_PG, valid_PG = _rewards(recipe, rollouts)
    advantages = group_advantages(rewards_PG, recipe.algorithm.advantage, valid_PG).reshape(-1).tolist()
    return [replace(rollout, advantage=a) for rollout, a in zip(rollouts, advantages, strict=True)]


def _rewards(recipe: Recipe, rollouts: Sequence[Rollout]) -> tuple[torch.Tensor, torch.Tensor]:
    rewards = torch.tensor([0.0 if r.reward is None else r.reward for r in rollouts], dtype=torch.float64)
    valid = torch.tensor([r.reward is not None for r in rollouts])
    shape = (-1, recipe.rollout.group_size)
    return rewards.view(shape), valid.view(shape)


def _batch(
    recipe: Recipe, index: int, rollouts: Sequence[Rollout], rollout_seconds: float, reward_seconds: float
) -> RolloutBatch:
    size = recipe.rollout.group_size
    groups = tuple(tuple(rollouts[i : i + size]) for i in range(0, len(rollouts), size))
    silent = no_signal_groups(*_rewards(recipe, rollouts))
    return RolloutBatch(index, groups, tuple(silent.tolist()), rollout_seconds, reward_seconds)
