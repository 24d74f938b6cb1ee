"""What runs of all kinds are estimated with: parameters, a machine's rates, memory. An estimate, no measurement.

- a training pass takes 6 operations a parameter and token, a forward pass 2; attention adds 4 H D operations per layer,
  query and key, three times that in training;
- of a mixture of experts only the parameters that a token visits count;
- memory holds fp32 master weights, two moments and gradient (16 bytes a parameter; where the model computes in bf16,
  its weights are the upper halves of the masters), and the activations of one micro-batch, which have a least (one
  sequence at a time) and a most (a whole mini-batch in one piece, or the recipe's limit).

Axes: L layers, H query heads, K key/value heads, D head size, V vocabulary, E hidden size.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol

from rethink.recipe.base import TrainingRecipe
from rethink.recipe.schema import MixtureOfExperts, ModelShape

ASSUMED_PROMPT_TOKENS = 128
"""Prompt length where nobody gave one: a one-example prompt of a short problem."""
SHARES = {
    "avx512-bf16 bfloat16": (0.75, 0.6),
    "avx512-bf16 float32": (0.8, 0.6),  # not measured: the share on AVX2
    "avx2 float32": (0.8, 0.6),
    "reference": (0.56, 0.35),
}
"""By kernels (`kernels_for` in `kernels/native/library.py`), the share of the machine's matrix-product rate that
training and decoding reached with SmolLM2-135M (dev/LOG.md)."""
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
    def from_matrix_products(cls, rate: float, kernels: str) -> MachineRates:
        """From the measured rate of plain matrix products (operations a second) and what these kernels reach of it."""
        training, decoding = SHARES[kernels]
        return cls(training * rate, decoding * rate)


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
    earlier_weights: int = 0
    """Versions of the policy that are still to sample (`rollout.lag`)."""
    engine_weights: int = 0
    """The copy of an engine that has one (`vllm`), which keeps its keys and values too while the policy is trained."""
    critic: int = 0
    """A critic's weights, gradients and optimizer."""

    @property
    def weights(self) -> int:
        """What is held all the time."""
        policy = self.master_and_optimizer + self.compute_weights
        return policy + self.reference_weights + self.earlier_weights + self.engine_weights + self.critic

    def at_once(self, keys_and_values: int, activations: int) -> int:
        """Of both, what is held at one time."""
        return keys_and_values + activations if self.engine_weights else max(keys_and_values, activations)

    @property
    def least(self) -> int:
        """Least that the run needs."""
        return self.weights + self.logits + self.at_once(self.keys_and_values_least, self.activations_least)

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
    """All epochs, with the passes that the objective needs besides; without attention."""
    attention_flops_decoding: float
    attention_flops_training: float
    seconds_per_step: float | None
    """None where no rate was given. Rewards, evaluation and checkpoints are not in it."""
    seconds_overlapped: float | None = None
    """The same where workers as fast as this machine sample while it trains; None: they cannot."""


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
    most_rounds: float = 1
    """Rollouts that a batch may sample at most, in batches: more than 1 with dynamic sampling. Phases count one."""
    total_seconds_most: float | None = None
    """`total_seconds` where every batch samples so many; None: no rate was given."""

    @property
    def generated_tokens(self) -> int:
        """Most completion tokens of the whole run, evaluations included."""
        batches = sum(phase.completion_tokens_batch * self._batches(phase) for phase in self.phases)
        return round(batches * self.most_rounds) + self.evaluation_tokens

    @property
    def total_flops(self) -> float:
        """Of sampling, each batch once, and training in the whole run; evaluations are left out."""
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


def training_memory(
    shape: ModelShape, value_bytes: int, longest: int, most: int, *, logits: bool, lanes: int | None
) -> Memory:
    """Memory of a run that trains, without reference, keys and values.

    Args:
        shape: of the model.
        value_bytes: bytes of a number in the compute type.
        longest: tokens of the longest sequence.
        most: tokens of the largest micro-batch.
        logits: whether it computes any.
        lanes: parts of a step whose gradients are added up; None: one.
    """
    parameters = count_parameters(shape)
    compute = compute_bytes(parameters, value_bytes)
    sums = 4 * parameters.total if (lanes or 1) > 1 else 0  # of the lanes' gradients, fp32
    token_bytes = activation_bytes(shape, value_bytes)
    return Memory(
        master_and_optimizer=BYTES_A_PARAMETER * parameters.total - compute + sums,
        compute_weights=compute,
        reference_weights=0,
        logits=LOGIT_ROWS * shape.vocab_size * value_bytes if logits else 0,
        keys_and_values_least=0,
        keys_and_values_most=0,
        activations_least=longest * token_bytes,
        activations_most=most * token_bytes,
    )


def sharded_memory(memory: Memory, shape: ModelShape, value_bytes: int, ranks: int, here: int) -> Memory:
    """The memory of a run whose weights are sharded over ranks.

    Args:
        memory: of the run in one process.
        shape: of the model.
        value_bytes: bytes of a number in the compute type.
        ranks: how many there are.
        here: those that share this memory: all on the processor, one on a GPU. Each may hold all weights in the compute
            type: the first to sample from, the others while they compute.
    """
    parameters = count_parameters(shape).total
    shards = BYTES_A_PARAMETER * parameters * here // ranks
    return replace(memory, master_and_optimizer=shards, compute_weights=value_bytes * parameters * here)


def largest_update(recipe: TrainingRecipe, step_tokens: int, longest: int) -> int:
    """Most tokens of a micro-batch: those of a step, as far as the recipe or its device allows; one sequence always."""
    return max(longest, min(step_tokens, recipe.optimizer.micro_batch_tokens or largest_micro_batch(recipe.device)))


def compute_bytes(parameters: Parameters, value_bytes: int) -> int:
    """Of what the masters take, the halves that compute; 0 where the masters themselves do."""
    return 0 if value_bytes == 4 else value_bytes * parameters.total


def largest_micro_batch(device: str) -> int:
    """Most tokens of an automatic micro-batch on a recipe's device."""
    if device == "auto":
        import torch

        device = "cuda" if torch.cuda.is_available() else "cpu"
    return MICRO_BATCH_TOKENS[device][1]


def cache_bytes(shape: ModelShape, value_bytes: int) -> int:
    """Keys and values of a token, in all layers."""
    return shape.layers * value_bytes * (shape.kv_values_per_token or 2 * shape.kv_heads * shape.head_dim)


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
