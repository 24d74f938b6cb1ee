"""What a run will cost, from the recipe and a model's shape alone: tokens, floating-point operations, memory, time.

An estimate, not a measurement. Its rules, per rollout batch of P prompts of p tokens and N = P * G completions of c:

- a shared prompt is computed once; training needs 6 * block parameters * (P p + N c) + 6 * head parameters * N c
  operations an epoch, decoding 2 instead of 6, the reference model (beta > 0) another 2;
- attention adds 4 H D operations per layer, query and key in decoding, three times that in training;
- of a mixture of experts only the parameters that a token visits count;
- memory holds fp32 master weights, two moments and gradient (16 bytes a parameter; where the model computes in bf16,
  its weights are the upper halves of the masters), the reference, keys and values, and the activations of one
  micro-batch. The last two have a least (one sequence at a time) and a most (all sequences at once, a whole mini-batch
  in one piece, or the recipe's limits); the run settles between them.

Axes: P prompts, G group size, N rollouts, L layers, H query heads, K key/value heads, D head size, V vocabulary,
E hidden size.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Protocol

from rethink.recipe.schema import MixtureOfExperts, ModelShape, Recipe

ASSUMED_PROMPT_TOKENS = 128
"""Prompt length where nobody gave one: a one-example prompt of a short problem."""
TRAINING_EFFICIENCY, DECODING_EFFICIENCY = 0.5, 0.35
"""Share of the machine's matrix-product rate that training and decoding reach (plain torch on two cores did)."""
MICRO_BATCH_TOKENS = {"cpu": (256, 2048), "cuda": (256, 8192)}
"""Bounds of an automatic micro-batch: fewer tokens leave the matrix units idle, more gain nothing."""
BYTES_A_PARAMETER = 16
"""fp32 weight, gradient and two moments."""
LOGIT_ROWS = 1024
"""Rows of V-wide logits that exist at once."""
GIB = 2**30


class DecoderLike(Protocol):
    """What `shape_of` reads of a loaded model's configuration."""

    @property
    def hidden_size(self) -> int: ...  # noqa: D102
    @property
    def num_layers(self) -> int: ...  # noqa: D102
    @property
    def num_heads(self) -> int: ...  # noqa: D102
    @property
    def num_kv_heads(self) -> int: ...  # noqa: D102
    @property
    def head_dim(self) -> int: ...  # noqa: D102
    @property
    def intermediate_size(self) -> int: ...  # noqa: D102
    @property
    def vocab_size(self) -> int: ...  # noqa: D102
    @property
    def max_position_embeddings(self) -> int: ...  # noqa: D102
    @property
    def tie_word_embeddings(self) -> bool: ...  # noqa: D102


@dataclass(frozen=True, slots=True)
class MachineRates:
    """What a machine does in a second, in floating-point operations, all its devices together."""

    training: float
    """Operations a second in forward and backward passes."""
    decoding: float
    """Operations a second while generating."""

    @classmethod
    def from_matrix_products(cls, rate: float) -> MachineRates:
        """From the measured rate of plain matrix products (operations a second) and the usual shares of it."""
        return cls(TRAINING_EFFICIENCY * rate, DECODING_EFFICIENCY * rate)


@dataclass(frozen=True, slots=True)
class Parameters:
    """Parameter counts of a shape."""

    total: int
    """All that are stored."""
    block: int
    """Those of the layers that one token visits: what the 6 and the 2 multiply."""
    head: int
    """Those of the output projection (V * E), whether tied or not."""


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes by what holds them, all devices together."""

    master_and_optimizer: int
    """fp32 master weights (only their lower halves where the model computes in bf16), two moments and gradient."""
    compute_weights: int
    """The upper halves, which compute; 0 where the masters themselves do."""
    reference_weights: int
    """The reference model; 0 where beta is 0."""
    logits: int
    """One chunk of rows, V wide."""
    keys_and_values_least: int
    """Of one sequence at its full length."""
    keys_and_values_most: int
    """Of all sequences that may be decoded at once, at their full length."""
    activations_least: int
    """Saved for the backward pass of one sequence."""
    activations_most: int
    """Saved for the backward pass of the largest micro-batch."""

    @property
    def weights(self) -> int:
        """What is held all the time."""
        return self.master_and_optimizer + self.compute_weights + self.reference_weights

    @property
    def least(self) -> int:
        """Least that the run needs."""
        return self.weights + self.logits + max(self.keys_and_values_least, self.activations_least)

    @property
    def most(self) -> int:
        """Most that the run can use: keys and values kept while it trains."""
        return self.weights + self.logits + self.keys_and_values_most + self.activations_most

    def to_dict(self) -> dict[str, int]:
        """As plain data, with the least and the most."""
        return asdict(self) | {"least": self.least, "most": self.most}


@dataclass(frozen=True, slots=True)
class Phase:
    """Steps that share a token limit. Tokens and operations are those of one rollout batch."""

    first_step: int
    steps: int
    max_new_tokens: int
    completion_tokens: int
    """Assumed length of a completion."""
    prompt_tokens_batch: int
    completion_tokens_batch: int
    decoding_flops: float
    training_flops: float
    """All epochs, and the reference model's pass; by the rule in the head of this file, without attention."""
    attention_flops_decoding: float
    attention_flops_training: float
    seconds_per_step: float | None
    """None where no rate was given. Rewards, evaluation and checkpoints are not in it."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a recipe will cost."""

    parameters: Parameters
    prompt_tokens: int
    """Length of a prompt."""
    prompt_tokens_assumed: bool
    """Whether nobody gave it."""
    steps_per_batch: int
    phases: tuple[Phase, ...]
    evaluations: int
    """Held-out evaluations in the whole run."""
    evaluation_tokens: int
    """Most completion tokens of all evaluations together."""
    evaluation_seconds: float | None
    memory: Memory
    total_tokens: int
    """Prompt and completion tokens trained on in the whole run, an epoch counted once."""
    total_seconds: float | None

    @property
    def generated_tokens(self) -> int:
        """Completion tokens of the whole run, evaluations included."""
        batches = sum(phase.completion_tokens_batch * self._batches(phase) for phase in self.phases)
        return batches + self.evaluation_tokens

    @property
    def total_flops(self) -> float:
        """Of sampling and training in the whole run; evaluations are left out."""
        return sum(
            self._batches(p)
            * (p.decoding_flops + p.training_flops + p.attention_flops_decoding + p.attention_flops_training)
            for p in self.phases
        )

    def _batches(self, phase: Phase) -> int:
        return -(-phase.steps // self.steps_per_batch)

    def to_dict(self) -> dict[str, Any]:
        """As plain data, for `--dry-run --json`."""
        return asdict(self) | {
            "memory": self.memory.to_dict(),
            "total_flops": self.total_flops,
            "generated_tokens": self.generated_tokens,
        }


def estimate(
    recipe: Recipe,
    shape: ModelShape,
    rates: MachineRates | None = None,
    *,
    prompt_tokens: int | None = None,
    completion_tokens: int | None = None,
) -> Estimate:
    """Tokens, operations, memory and time of a run.

    Args:
        recipe: the run.
        shape: of the model; `shape_of` makes one from a loaded model's configuration.
        rates: the machine's; None leaves the times out.
        prompt_tokens: usual length of a prompt; None assumes `ASSUMED_PROMPT_TOKENS`.
        completion_tokens: usual length of a completion; None takes the token limit, the most there can be.
    """
    parameters = count_parameters(shape)
    prompt = prompt_tokens or ASSUMED_PROMPT_TOKENS
    phases = tuple(
        _phase(recipe, shape, parameters, rates, first, steps, prompt, min(completion_tokens or limit, limit))
        for first, steps, limit in _limits(recipe)
    )
    evaluations, evaluated = _evaluations(recipe)
    evaluation_limit = recipe.evaluation.max_new_tokens or phases[-1].max_new_tokens
    length = min(completion_tokens or evaluation_limit, evaluation_limit)
    evaluation_flops = evaluated * _pass_flops(shape, parameters, 1, 1, prompt, length)
    evaluation_seconds = None if rates is None else evaluation_flops / rates.decoding
    seconds = [phase.seconds_per_step * phase.steps for phase in phases if phase.seconds_per_step is not None]
    return Estimate(
        parameters=parameters,
        prompt_tokens=prompt,
        prompt_tokens_assumed=prompt_tokens is None,
        steps_per_batch=recipe.steps_per_batch,
        phases=phases,
        evaluations=evaluations,
        evaluation_tokens=evaluated * length,
        evaluation_seconds=evaluation_seconds,
        memory=_memory(recipe, shape, parameters, prompt, max(phase.completion_tokens for phase in phases)),
        total_tokens=sum(_batch_tokens(phase) * -(-phase.steps // recipe.steps_per_batch) for phase in phases),
        total_seconds=None if evaluation_seconds is None else sum(seconds) + evaluation_seconds,
    )


def shape_of(config: DecoderLike) -> ModelShape:
    """The shape of a loaded model."""
    return ModelShape(
        hidden_size=config.hidden_size,
        layers=config.num_layers,
        heads=config.num_heads,
        kv_heads=config.num_kv_heads,
        head_dim=config.head_dim,
        intermediate_size=config.intermediate_size,
        vocab_size=config.vocab_size,
        context=config.max_position_embeddings,
        tie_embeddings=config.tie_word_embeddings,
    )


def count_parameters(shape: ModelShape) -> Parameters:
    """Parameters of a shape: published totals where it declares them, else counted (biases are left out)."""
    hidden, width = shape.hidden_size, shape.heads * shape.head_dim
    attention = 2 * hidden * width + 2 * hidden * shape.kv_heads * shape.head_dim
    norms = 2 * hidden
    dense = attention + norms + 3 * hidden * shape.intermediate_size
    head = shape.vocab_size * hidden
    mixture = shape.mixture
    if mixture is None:
        stored = visited = dense * shape.layers + hidden
    else:
        sparse_layers = shape.layers - mixture.dense_layers
        router = hidden * mixture.experts
        fixed = dense * mixture.dense_layers + (attention + norms + router) * sparse_layers + hidden
        stored = fixed + sparse_layers * _experts(hidden, mixture, mixture.experts)
        visited = fixed + sparse_layers * _experts(hidden, mixture, mixture.experts_per_token)
    embeddings = head if shape.tie_embeddings else 2 * head
    total = shape.total_parameters or stored + embeddings
    if shape.active_parameters is not None:
        visited = shape.active_parameters - embeddings
    elif mixture is None and shape.total_parameters is not None:
        visited = total - embeddings
    return Parameters(total=total, block=visited, head=head)


def _experts(hidden: int, mixture: MixtureOfExperts, routed: int) -> int:
    return 3 * hidden * mixture.expert_intermediate_size * (routed + mixture.shared_experts)


def _limits(recipe: Recipe) -> list[tuple[int, int, int]]:
    """(first step, number of steps, token limit) of each phase that this run reaches."""
    limit = recipe.rollout.max_new_tokens
    table = {0: limit} if isinstance(limit, int) else limit
    starts = sorted(step for step in table if step < recipe.steps)
    ends = [*starts[1:], recipe.steps]
    return [(start, end - start, table[start]) for start, end in zip(starts, ends, strict=True)]


def _phase(
    recipe: Recipe,
    shape: ModelShape,
    parameters: Parameters,
    rates: MachineRates | None,
    first: int,
    steps: int,
    prompt: int,
    completion: int,
) -> Phase:
    prompts, group = recipe.rollout.prompts_per_batch, recipe.rollout.group_size
    forward = _matrix_flops(parameters, prompts, group, prompt, completion)
    attention = _attention_flops(shape, prompts, group, prompt, completion)
    passes = 3 * recipe.algorithm.epochs + (1 if recipe.algorithm.beta > 0 else 0)
    seconds = None
    if rates is not None:
        batch = (forward + attention) / rates.decoding + passes * (forward + attention) / rates.training
        seconds = batch / recipe.steps_per_batch
    return Phase(
        first_step=first,
        steps=steps,
        max_new_tokens=recipe.max_new_tokens_at(first),
        completion_tokens=completion,
        prompt_tokens_batch=prompts * prompt,
        completion_tokens_batch=prompts * group * completion,
        decoding_flops=forward,
        training_flops=passes * forward,
        attention_flops_decoding=attention,
        attention_flops_training=passes * attention,
        seconds_per_step=seconds,
    )


def _batch_tokens(phase: Phase) -> int:
    return phase.prompt_tokens_batch + phase.completion_tokens_batch


def _pass_flops(
    shape: ModelShape, parameters: Parameters, prompts: int, group: int, prompt: int, completion: int
) -> float:
    """Operations of one forward pass, attention included."""
    matrices = _matrix_flops(parameters, prompts, group, prompt, completion)
    return matrices + _attention_flops(shape, prompts, group, prompt, completion)


def _matrix_flops(parameters: Parameters, prompts: int, group: int, prompt: int, completion: int) -> float:
    """Matrix products of one forward pass over shared prompts and their completions."""
    completions = prompts * group * completion
    return 2.0 * (parameters.block * (prompts * prompt + completions) + parameters.head * completions)


def _attention_flops(shape: ModelShape, prompts: int, group: int, prompt: int, completion: int) -> float:
    """Scores and weighted values of one forward pass: a query sees its prompt and its own past."""
    pairs = prompts * (prompt * prompt / 2 + group * completion * (prompt + completion / 2))
    return 4.0 * shape.layers * shape.heads * shape.head_dim * pairs


def _evaluations(recipe: Recipe) -> tuple[int, int]:
    """Evaluations in the run and the problems of all of them together."""
    evaluation = recipe.evaluation
    if evaluation.problems == 0:
        return 0, 0
    between = 0 if evaluation.every is None else (recipe.steps - 1) // evaluation.every
    return 2 + between, 2 * evaluation.problems + between * (evaluation.every_problems or evaluation.problems)


def _memory(recipe: Recipe, shape: ModelShape, parameters: Parameters, prompt: int, completion: int) -> Memory:
    value_bytes = recipe.model.value_bytes
    prompts, group = recipe.rollout.prompts_per_batch, recipe.rollout.group_size
    sequences = min(prompts * group, recipe.rollout.max_concurrent or prompts * group)
    cached = -(-sequences // group) * prompt + sequences * completion
    cache_bytes = shape.layers * value_bytes * (shape.kv_values_per_token or 2 * shape.kv_heads * shape.head_dim)
    cache = cached * cache_bytes
    if recipe.rollout.kv_budget_gb is not None:
        cache = min(cache, int(recipe.rollout.kv_budget_gb * GIB))
    least = prompt + completion
    most = (prompts * prompt + prompts * group * completion) // recipe.algorithm.mini_batches
    most = max(least, min(most, recipe.optimizer.micro_batch_tokens or largest_micro_batch(recipe.device)))
    token_bytes = activation_bytes(shape, value_bytes)
    compute = compute_bytes(parameters, value_bytes)
    return Memory(
        master_and_optimizer=BYTES_A_PARAMETER * parameters.total - compute,
        compute_weights=compute,
        reference_weights=value_bytes * parameters.total if recipe.algorithm.beta > 0 else 0,
        logits=LOGIT_ROWS * shape.vocab_size * value_bytes,
        keys_and_values_least=least * cache_bytes,
        keys_and_values_most=max(cache, least * cache_bytes),
        activations_least=least * token_bytes,
        activations_most=most * token_bytes,
    )


def training_memory(shape: ModelShape, value_bytes: int, longest: int, most: int, *, logits: bool) -> Memory:
    """Memory of a run that trains and does not sample.

    Args:
        shape: of the model.
        value_bytes: bytes of a number in the compute type.
        longest: tokens of the longest document.
        most: tokens of the largest micro-batch.
        logits: whether it computes any.
    """
    parameters = count_parameters(shape)
    compute = compute_bytes(parameters, value_bytes)
    token_bytes = activation_bytes(shape, value_bytes)
    return Memory(
        master_and_optimizer=BYTES_A_PARAMETER * parameters.total - compute,
        compute_weights=compute,
        reference_weights=0,
        logits=LOGIT_ROWS * shape.vocab_size * value_bytes if logits else 0,
        keys_and_values_least=0,
        keys_and_values_most=0,
        activations_least=longest * token_bytes,
        activations_most=most * token_bytes,
    )


def compute_bytes(parameters: Parameters, value_bytes: int) -> int:
    """Of what the masters take, the halves that compute; 0 where the masters themselves do."""
    return 0 if value_bytes == 4 else value_bytes * parameters.total


def largest_micro_batch(device: str) -> int:
    """Most tokens of an automatic micro-batch on a recipe's device."""
    if device == "auto":
        import torch

        device = "cuda" if torch.cuda.is_available() else "cpu"
    return MICRO_BATCH_TOKENS[device][1]


def activation_bytes(shape: ModelShape, value_bytes: int) -> int:
    """Bytes that a token leaves for the backward pass: per layer the residual stream twice in fp32, its two normed
    copies, queries and keys before and after their rotation, values, the attention's result, and what the gate takes
    and gives. (SmolLM2-135M in bf16: 622 kB; torch's hooks for saved tensors count 627 kB.)
    """
    mixture = shape.mixture
    width = shape.intermediate_size
    if mixture is not None:
        width = mixture.expert_intermediate_size * (mixture.experts_per_token + mixture.shared_experts)
    heads = 3 * (shape.heads + shape.kv_heads) * shape.head_dim
    return shape.layers * (8 * shape.hidden_size + value_bytes * (2 * shape.hidden_size + heads + 3 * width))
