"""What a GRPO run will cost, from the recipe and a model's shape alone.

The rules are those of `plan/estimate.py`. A rollout batch has P prompts of p tokens and N = P * G completions of c:

- a shared prompt is computed once; training needs 6 * block parameters * (P p + N c) + 6 * head parameters * N c
  operations an epoch, decoding 2 instead of 6; what the objective needs adds its forward passes to each epoch
  (`recipe/objective.py`): 2 for the reference model (beta > 0), 2 of the head alone for sums over a completion (GSPO);
- a critic takes 2 * block parameters * (P p + N c) for its values and three times that an epoch of its own, and no
  head;
- attention adds 4 H D operations per layer, query and key in decoding, three times that in training;
- keys and values have a least (one sequence at a time) and a most (all sequences at once, or the recipe's limits); the
  run settles between them.

Axes: P prompts, G group size, N rollouts, H query heads, D head size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from rethink.kinds.grpo.recipe import Recipe
from rethink.plan.estimate import (
    ASSUMED_PROMPT_TOKENS,
    GIB,
    Estimate,
    MachineRates,
    Memory,
    Phase,
    cache_bytes,
    count_parameters,
    largest_update,
    training_memory,
)
from rethink.recipe.objective import NEEDS, objective_named
from rethink.recipe.schema import ModelShape
from rethink.recipe.terms import ADVANTAGES
from rethink.rollout.engines import takes_own_copy

VECTOR_BYTES = 24
"""Bytes a parameter of what TRPO's update holds: gradient, solution, residual, two directions, a product; fp32."""


@dataclass(frozen=True, slots=True)
class Groups:
    """Prompts that are computed once, and the completions of each."""

    prompts: int
    group: int
    prompt: int
    """Tokens of a prompt."""
    completion: int
    """Tokens of a completion."""

    @property
    def sequences(self) -> int:
        """Completions."""
        return self.prompts * self.group

    @property
    def prompt_tokens(self) -> int:
        """Of all prompts."""
        return self.prompts * self.prompt

    @property
    def completion_tokens(self) -> int:
        """Of all completions."""
        return self.sequences * self.completion

    def head(self, shape: ModelShape) -> float:
        """Operations of one forward pass of the head."""
        return 2.0 * count_parameters(shape).head * self.completion_tokens

    def body(self, shape: ModelShape) -> float:
        """Operations of the matrix products of one forward pass without the head."""
        return 2.0 * count_parameters(shape).block * (self.prompt_tokens + self.completion_tokens)

    def forward(self, shape: ModelShape) -> tuple[float, float]:
        """Operations of one forward pass: matrix products, and attention (a query sees its prompt and its own past)."""
        matrices = self.body(shape) + self.head(shape)
        own = self.group * self.completion * (self.prompt + self.completion / 2)
        pairs = self.prompts * (self.prompt * self.prompt / 2 + own)
        return matrices, 4.0 * shape.layers * shape.heads * shape.head_dim * pairs


def estimate(
    recipe: Recipe,
    shape: ModelShape,
    rates: MachineRates | None = None,
    *,
    prompt_tokens: int | None = None,
    completion_tokens: int | None = None,
    critic: ModelShape | None = None,
) -> Estimate:
    """Tokens, operations, memory and time of a run.

    Args:
        recipe: the run.
        shape: of the model; `shape_of` makes one from a loaded model's configuration.
        rates: the machine's; None leaves the times out.
        prompt_tokens: usual length of a prompt; None assumes `ASSUMED_PROMPT_TOKENS`.
        completion_tokens: usual length of a completion; None takes the token limit, the most there can be.
        critic: shape of the critic's model, where the recipe has one; None takes the policy's.
    """
    prompt, critic = prompt_tokens or ASSUMED_PROMPT_TOKENS, critic or shape
    prompts, group = recipe.rollout.prompts_per_batch, recipe.rollout.group_size

    def phase(first: int, steps: int, limit: int) -> Phase:
        batch = Groups(prompts, group, prompt, min(completion_tokens or limit, limit))
        return _phase(recipe, batch, (first, steps), (shape, critic), rates)

    phases = tuple(phase(*reached) for reached in _limits(recipe))
    evaluations, evaluated = _evaluations(recipe)
    evaluation_limit = recipe.evaluation.max_new_tokens or phases[-1].max_new_tokens
    length = min(completion_tokens or evaluation_limit, evaluation_limit)
    evaluation_flops = evaluated * sum(Groups(1, 1, prompt, length).forward(shape))
    evaluation_seconds = None if rates is None else evaluation_flops / rates.decoding
    seconds = [phase.seconds_per_step * phase.steps for phase in phases if phase.seconds_per_step is not None]
    total_seconds = None if evaluation_seconds is None else sum(seconds) + evaluation_seconds
    return Estimate(
        parameters=count_parameters(shape),
        prompt_tokens=prompt,
        prompt_tokens_assumed=prompt_tokens is None,
        steps_per_batch=recipe.steps_per_batch,
        phases=phases,
        evaluations=evaluations,
        evaluation_tokens=evaluated * length,
        evaluation_seconds=evaluation_seconds,
        memory=_memory(
            recipe, shape, critic, Groups(prompts, group, prompt, max(phase.completion_tokens for phase in phases))
        ),
        total_tokens=sum(
            (phase.prompt_tokens_batch + phase.completion_tokens_batch) * -(-phase.steps // recipe.steps_per_batch)
            for phase in phases
        ),
        total_seconds=total_seconds,
        most_rounds=_most_rounds(recipe),
        total_seconds_most=None if total_seconds is None else total_seconds + _further_rounds(recipe, phases, rates),
    )


def _most_rounds(recipe: Recipe) -> float:
    """Rollouts that a batch samples at most, in batches; 1 without dynamic sampling."""
    return recipe.rollout.sampling_rounds.max_rounds * recipe.rollout.prompts_at_once / recipe.rollout.prompts_per_batch


def _further_rounds(recipe: Recipe, phases: Sequence[Phase], rates: MachineRates | None) -> float:
    """Seconds of what all batches of a run sample at most beyond the first rollouts; 0 without rates."""
    flops = sum((phase.decoding_flops + phase.attention_flops_decoding) * phase.steps for phase in phases)
    batches = flops / recipe.steps_per_batch
    return 0.0 if rates is None else (_most_rounds(recipe) - 1) * batches / rates.decoding


def _limits(recipe: Recipe) -> list[tuple[int, int, int]]:
    """(first step, number of steps, token limit) of each phase that this run reaches."""
    limit = recipe.rollout.max_new_tokens
    table = {0: limit} if isinstance(limit, int) else limit
    starts = sorted(step for step in table if step < recipe.steps)
    ends = [*starts[1:], recipe.steps]
    return [(start, end - start, table[start]) for start, end in zip(starts, ends, strict=True)]


def _phase(
    recipe: Recipe,
    batch: Groups,
    reach: tuple[int, int],
    shapes: tuple[ModelShape, ModelShape],
    rates: MachineRates | None,
) -> Phase:
    """One phase.

    Args:
        recipe: the run.
        batch: a rollout batch of the phase.
        reach: its first step and number of steps.
        shapes: of the model, and of the critic's where there is one.
        rates: the machine's.
    """
    shape, critic = shapes
    matrices, attention = batch.forward(shape)
    further = ADVANTAGES[recipe.algorithm.advantage].further_completions
    sampled = replace(batch, group=batch.group + further).forward(shape)
    needed = [need for name, need in NEEDS.items() if name in recipe.algorithm.needs]
    passes = recipe.algorithm.epochs * (3 + sum(need.passes for need in needed)) + _trust_region_passes(recipe)
    training = passes * matrices + recipe.algorithm.epochs * sum(need.head_passes for need in needed) * batch.head(
        shape
    )
    trained_attention = passes * attention
    if recipe.critic is not None:
        judging = 1 + 3 * recipe.critic.epochs
        training += judging * batch.body(critic)
        trained_attention += judging * batch.forward(critic)[1]
    seconds = overlapped = None
    if rates is not None:
        decoding = sum(sampled) / rates.decoding
        trained = (training + trained_attention) / rates.training
        seconds = (decoding + trained) / recipe.steps_per_batch
        overlapped = max(decoding, trained) / recipe.steps_per_batch if recipe.rollout.lag else None
    return Phase(
        first_step=reach[0],
        steps=reach[1],
        max_new_tokens=recipe.rollout.max_new_tokens_at(reach[0]),
        completion_tokens=batch.completion,
        prompt_tokens_batch=batch.prompt_tokens,
        completion_tokens_batch=batch.completion_tokens,
        decoding_flops=sampled[0],
        training_flops=training,
        attention_flops_decoding=sampled[1],
        attention_flops_training=trained_attention,
        seconds_per_step=seconds,
        seconds_overlapped=overlapped,
    )


def _trust_region_passes(recipe: Recipe) -> float:
    """Forward passes, or what takes as long, of TRPO's update: 6 a product with the Fisher matrix, and 2 of a line
    search that accepts its first step.
    """
    if objective_named(recipe.algorithm.type).update != "trust-region":
        return 0
    return 6 * recipe.algorithm.options["iterations"] + 2


def _evaluations(recipe: Recipe) -> tuple[int, int]:
    """Evaluations in the run and the problems of all of them together."""
    evaluation = recipe.evaluation
    if evaluation.problems == 0:
        return 0, 0
    between = 0 if evaluation.every is None else (recipe.steps - 1) // evaluation.every
    return 2 + between, 2 * evaluation.problems + between * (evaluation.every_problems or evaluation.problems)


def _memory(recipe: Recipe, shape: ModelShape, critic: ModelShape, batch: Groups) -> Memory:
    rollout, value_bytes = recipe.rollout, recipe.model.value_bytes
    at_once = rollout.prompts_at_once * batch.group
    sequences = min(at_once, rollout.max_concurrent or at_once)
    cached = -(-sequences // batch.group) * batch.prompt + sequences * batch.completion
    token = cache_bytes(shape, value_bytes)
    cache = cached * token
    own = takes_own_copy(rollout.engine)
    if rollout.kv_budget_gb is not None:
        budget = int(rollout.kv_budget_gb * GIB)
        cache = budget if own else min(cache, budget)  # an engine with a copy of its own takes all of it
    longest = batch.prompt + batch.completion
    mini_batch = (batch.prompt_tokens + batch.completion_tokens) // recipe.algorithm.mini_batches
    most = largest_update(recipe, mini_batch, longest)
    training = training_memory(shape, value_bytes, longest, most, logits=True, lanes=recipe.optimizer.lanes)
    parameters = count_parameters(shape).total
    judging = training_memory(critic, value_bytes, longest, most, logits=False, lanes=1)
    if recipe.critic is not None:  # its passes and the policy's are never made at one time
        training = replace(
            training,
            critic=judging.weights,
            activations_least=max(training.activations_least, judging.activations_least),
            activations_most=max(training.activations_most, judging.activations_most),
        )
    if _trust_region_passes(recipe):
        held = training.master_and_optimizer + VECTOR_BYTES * parameters
        training = replace(training, master_and_optimizer=held)
    return replace(
        training,
        reference_weights=value_bytes * parameters if "reference" in recipe.algorithm.needs else 0,
        keys_and_values_least=longest * token,
        keys_and_values_most=max(cache, longest * token),
        earlier_weights=recipe.rollout.lag * value_bytes * parameters,
        engine_weights=value_bytes * parameters if own else 0,
    )
