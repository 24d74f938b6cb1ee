"""GRPO, top to bottom: what one step of the loop (`runs/loop.py`) is, one optimizer update.

    rollout batch ─► (critic) ─► (old log-probabilities) ─► mini-batch of groups ─► gradients ─► update ─► engine
          every step: metrics row · held-out evaluation where due · new reference where due · checkpoint where due

DeepSeekMath (arXiv 2402.03300) Algorithm 1 and DeepSeek-R1 (2501.12948) equations 1-3. A rollout batch is cut at group
boundaries into mini-batches and passed over `epochs` times.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from rethink.eval.heldout import evaluate
from rethink.kernels.head import release_memory
from rethink.kinds.grpo.choice import decided
from rethink.kinds.grpo.collect import RolloutBatch, Sources
from rethink.kinds.grpo.critic import Critic, judge, write_critic
from rethink.kinds.grpo.feed import Feed
from rethink.kinds.grpo.lag import sampled_by
from rethink.kinds.grpo.metrics import batch_metrics
from rethink.kinds.grpo.penalty import Penalty, adapt, kl_of_tokens, penalised, write_penalty
from rethink.kinds.grpo.recipe import Recipe
from rethink.kinds.grpo.trust_region import trust_region_step
from rethink.kinds.grpo.update import (
    Group,
    MiniBatch,
    UpdateStats,
    accumulate_gradients,
    compute_logprobs,
    group_order,
    masked,
)
from rethink.kinds.grpo.versions import write_versions
from rethink.kinds.grpo.wire import LANES
from rethink.model.language_model import LanguageModel
from rethink.observe.progress import Progress
from rethink.observe.trackers import Trackers
from rethink.recipe.objective import objective_named
from rethink.runs.checkpoint import TrainState, write_checkpoint
from rethink.runs.optimizer import Optimizer, apply_update
from rethink.runs.ranks import share_reference
from rethink.runs.rounds import train_lanes
from rethink.seeds import draw
from rethink.store.as_trained import as_trained
from rethink.store.run_folder import RunFolder
from rethink.types import Problem, Rollout, SamplingParams


@dataclass(slots=True)
class GRPO:
    """The parts of a run, wired together by `run.py`."""

    recipe: Recipe
    folder: RunFolder
    model: LanguageModel
    reference: LanguageModel | None
    optimizer: Optimizer
    sources: Sources
    feed: Feed
    held_out: list[Problem]
    progress: Progress
    micro_batch_tokens: int
    export: Callable[[Path], None]
    """Writes the current policy as a Hugging Face folder."""
    state: TrainState = field(default_factory=TrainState)
    batch: RolloutBatch | None = None
    trackers: Trackers = field(default_factory=lambda: Trackers([], lambda text: None))
    old_logprobs: list[Tensor] | None = None
    """Of the current batch's rollouts that are trained on, in order (`old_logprobs`); None while they are the current
    policy's."""
    critic: Critic | None = None
    """What gives advantages, where the group does not."""
    penalty: Penalty = field(default_factory=lambda: Penalty(0.0))

    @property
    def steps(self) -> int:
        """Updates in all."""
        return self.recipe.steps


def step(run: GRPO) -> dict[str, float]:
    """One update, and a new reference where one is due. Returns the step's metrics."""
    row = one_step(run)
    replace_reference(run)
    return row


def one_step(run: GRPO) -> dict[str, float]:
    """Sample if a new batch is due, then one update. Returns the step's metrics."""
    recipe, state = run.recipe, run.state
    index, position = divmod(state.step, recipe.steps_per_batch)
    row: dict[str, float] = {"step": state.step + 1, "batch": index}

    # Rollouts: one batch serves mini_batches * epochs steps.
    waited, fresh = 0.0, run.batch is None or run.batch.index != index
    if run.batch is None or fresh:
        run.progress.phase("rollout")
        run.batch, waited = run.feed.take(index, state.step)
        if not position:
            state.tokens_total += sum(len(r.completion.token_ids) for r in run.batch.rollouts)
    row |= run.sources.engine.metrics() | run.feed.positions.metrics(index)
    if recipe.rollout.lag:
        row |= {"policy/lag": index - sampled_by(index, recipe.rollout.lag), "time/wait": waited}

    # Old log-probabilities, and a KL that goes into the reward: of the batch, before the first update on it.
    run.progress.phase("train")
    started = time.perf_counter()
    if position == 0:
        run.old_logprobs = old_logprobs(run, run.batch)
        run.penalty.kl = kl_in_reward(run, run.batch)
    if fresh:
        run.batch, judged = with_advantages(run, run.batch)
        row |= judged
    row |= batch_metrics(run.batch, recipe, sampled_now=position == 0)

    row |= update_policy(run, run.batch, position) if state.step >= recipe.held_steps else {}
    apart = row.get("time/optimizer", 0.0) + row.get("time/critic", 0.0)
    row["time/train"] = time.perf_counter() - started - apart
    state.step += 1
    run.sources.engine.publish(run.model, state.step)
    run.feed.advance(state.step)
    release_memory()
    return row | {"tokens/total": state.tokens_total, "tokens/trained": state.tokens_trained}


def update_policy(run: GRPO, batch: RolloutBatch, position: int) -> dict[str, float]:
    """Gradients of a step's groups, and the update; the engine reads the same weights. Returns its metrics."""
    recipe, state = run.recipe, run.state
    chosen = mini_batch(run, batch, position)
    chosen = decided(recipe, run.model, chosen, state.step, run.micro_batch_tokens)
    lanes = chosen.lanes(run.optimizer.lanes)
    compute = partial(
        accumulate_gradients,
        recipe,
        run.optimizer.trained,
        run.reference,
        step=state.step,
        limit=run.micro_batch_tokens,
    )
    stats = UpdateStats.merged(train_lanes(run.optimizer, lanes, compute, LANES, state.step))
    state.tokens_trained += stats.input_tokens
    updated = UPDATES[objective_named(recipe.algorithm.type).update](run, chosen)
    row = stats.metrics(recipe.algorithm) | run.penalty.metrics(recipe.algorithm, batch) | updated
    if (state.step + 1) % recipe.steps_per_batch == 0:
        adapt(run.penalty, recipe.algorithm, batch, stats, len(chosen.lengths))
    return row


def _adamw(run: GRPO, chosen: MiniBatch) -> dict[str, float]:
    """A step down the gradient that the optimizer holds."""
    recipe, first = run.recipe, run.recipe.held_steps
    return apply_update(run.optimizer, recipe.optimizer, run.state.step - first, recipe.policy_steps)


def _trust_region(run: GRPO, chosen: MiniBatch) -> dict[str, float]:
    """A step along the natural gradient, with a bound on its KL."""
    return trust_region_step(run.recipe, run.optimizer, chosen.groups, run.micro_batch_tokens, run.state.step)


UPDATES: Mapping[str, Callable[[GRPO, MiniBatch], dict[str, float]]] = {
    "adamw": _adamw,
    "trust-region": _trust_region,
}
"""What an objective's `update` means."""


def with_advantages(run: GRPO, batch: RolloutBatch) -> tuple[RolloutBatch, dict[str, float]]:
    """The batch with the advantages that were not known when it was sampled: of a critic, or of rewards that a KL was
    taken off; and what there is to say of the critic.
    """
    if run.critic is None:
        return penalised(run.recipe, batch, run.penalty), {}
    run.progress.phase("critic")
    kl = run.penalty.kl
    return judge(run.critic, batch, None if kl is None else [run.penalty.beta * one for one in kl])


def old_logprobs(run: GRPO, batch: RolloutBatch) -> list[Tensor] | None:
    """What the ratio is taken to: log-probabilities [length] of each rollout that is trained on, before the first
    update on the batch.

    Without a correction they are those of the behaviour policy, which sampled. With one they are those of the proximal
    policy, the present one, and the correction weighs it against the behaviour policy; without a lag these two are one
    policy, computed twice. None: not needed, or the current ones at each update.
    """
    recipe = run.recipe
    source = old_source(recipe, exact=run.sources.engine.exact_logprobs)
    if source == "current":
        return None
    if source == "engine":
        return [
            torch.from_numpy(r.completion.behaviour_logprobs).to(run.model.device)
            for g in batch.trained_groups
            for r in g
        ]
    return compute_logprobs(run.model, batch.trained_groups, recipe.rollout.temperature, run.micro_batch_tokens)


def kl_in_reward(run: GRPO, batch: RolloutBatch) -> list[Tensor] | None:
    """KL of each token that the batch trains on, before its first update; None: it is not in the reward."""
    recipe, old = run.recipe, run.old_logprobs
    if recipe.algorithm.kl_in == "loss" or run.reference is None:
        return None
    if old is None and run.sources.engine.exact_logprobs and not recipe.rollout.keep_sampling_mask:
        old = [torch.from_numpy(rollout.completion.logprobs) for g in batch.trained_groups for rollout in g]
    old, reference = (
        known or compute_logprobs(model, batch.trained_groups, recipe.rollout.temperature, run.micro_batch_tokens)
        for known, model in ((old, run.model), (None, run.reference))
    )
    return kl_of_tokens(old, reference)


def old_source(recipe: Recipe, *, exact: bool) -> Literal["current", "engine", "pass"]:
    """Where the old log-probabilities come from. `exact`: the engine's equal the trainer's to the bit."""
    if "old" not in recipe.algorithm.needs:
        return "current"
    if recipe.rollout.lag and recipe.algorithm.correction == "none":
        return "engine"
    if recipe.steps_per_batch == 1:
        return "current"
    # Sums over a sampling mask are made in another order by the engine than by the trainer.
    return "engine" if exact and not recipe.rollout.lag and not recipe.rollout.keep_sampling_mask else "pass"


def mini_batch(run: GRPO, batch: RolloutBatch, position: int) -> MiniBatch:
    """What the update at `position` of the batch learns from.

    A group without advantages has no gradient unless another term of the loss gives it one. Completions that the
    recipe masks are not there at all: no denominator counts them.
    """
    chosen, algorithm = chosen_groups(run.recipe, batch.index, position), run.recipe.algorithm
    size, old = run.recipe.rollout.group_size, run.old_logprobs
    groups: list[list[Rollout]] = []
    old_kept: list[Tensor] = []
    skip: list[bool] = []
    for place, g in ((batch.trained[g], g) for g in chosen):
        kept = [i for i, rollout in enumerate(batch.groups[place]) if not masked(rollout, algorithm)]
        if kept:
            groups.append([batch.groups[place][i] for i in kept])
            old_kept += [] if old is None else [old[g * size + i] for i in kept]
            skip.append(not (algorithm.moves_all_groups or _has_advantages(groups[-1])))
    beta = run.penalty.beta if algorithm.kl_target is not None else None
    return MiniBatch(groups, None if old is None else old_kept, skip, beta=beta)


def _has_advantages(group: Group) -> bool:
    return any(np.any(rollout.advantage) for rollout in group)


def chosen_groups(recipe: Recipe, batch_index: int, position: int) -> list[int]:
    """Which of a batch's groups the update at `position` uses: each once an epoch, in an order drawn per epoch.

    They are numbered from 0 among those that are trained on.
    """
    prompts, parts = recipe.rollout.prompts_per_batch, recipe.algorithm.mini_batches
    epoch, part = divmod(position, parts)
    return group_order("mini-batches", recipe.seed, batch_index, epoch, prompts, parts)[part]


def replace_reference(run: GRPO) -> None:
    """Hard replacement of the reference by the policy every so many steps (the paper's 400)."""
    every = run.recipe.algorithm.reference_every
    if run.reference is not None and every is not None and run.state.step % every == 0:
        run.reference = run.model.clone()
        if run.recipe.algorithm.kl_coefficient > 0:
            share_reference(run.optimizer.ranks, run.reference, current=True)


def evaluate_now(run: GRPO) -> dict[str, float]:
    """Held-out evaluation of the current policy; keeps its samples, and the model if it is the best so far."""
    section, step, started = run.recipe.evaluation, run.state.step, time.perf_counter()
    whole = step in (0, run.recipe.steps) or section.every_problems is None
    compared = section.every_problems or len(run.held_out)
    problems = run.held_out if whole else run.held_out[:compared]

    def on_ended(number: int) -> None:
        run.progress.phase("evaluation", number, len(problems))

    on_ended(0)
    seeds = [draw("evaluation", run.recipe.seed, step, i) for i in range(len(problems))]
    s = run.sources
    with run.feed.alone():
        result = evaluate(s.engine, s.renderer, s.rubric, problems, evaluation_params(run), seeds, on_ended)
    run.folder.write_samples(f"step-{step:06d}", result.rows())
    run.progress.evaluation(step, result.metrics())
    accuracy, judged = result.first(compared)
    if step and section.every is not None and accuracy > run.state.best_accuracy:
        run.state.best_step, run.state.best_accuracy = step, accuracy
        record = as_trained(run.recipe, run.folder.recipe_hash)
        info = {"step": step, "accuracy": accuracy, "n": compared, "judged": judged}
        run.folder.best_model(run.export, record, info)
    return result.metrics() | {"time/evaluation": time.perf_counter() - started}


def evaluation_params(run: GRPO) -> SamplingParams:
    """How held-out problems are sampled."""
    sampling = run.recipe.held_out_sampling()
    assert sampling is not None, "there are no held-out problems"
    return SamplingParams(
        temperature=sampling.temperature,
        max_new_tokens=sampling.max_new_tokens,
        stop_strings=sampling.stop_strings,
        stop_token_ids=run.sources.stop_token_ids,
    )


def write(run: GRPO, folder: Path) -> None:
    """A recovery checkpoint of this very step."""
    half_used = run.state.step % run.recipe.steps_per_batch != 0
    write_checkpoint(folder, run.state, run.optimizer, run.reference, run.old_logprobs if half_used else None)
    if run.critic is not None:
        write_critic(run.critic, folder, half_used=half_used)
    write_versions(folder, run.feed.needed(run.state.step))
    run.feed.positions.write(folder, run.state.step // run.recipe.steps_per_batch)
    write_penalty(folder, run.recipe.algorithm, run.penalty, half_used=half_used)
