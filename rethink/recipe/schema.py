"""The sections of recipes: frozen and typed. What kinds of recipes have in common is in `base.py`.

Field names are the field's standard terms. A *rollout batch* is `prompts_per_batch` × `group_size` completions. It is
cut at group boundaries into `mini_batches`, and training passes over it `epochs` times. Each mini-batch is one
optimizer update, and a *step* is one optimizer update. Every `*_steps` and `every` below counts steps.

Checks that need only the recipe are here and in `checks.py`. Those that need the model (context length, vocabulary) run
when it is loaded, still before anything slow.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from rethink.recipe.choosing import DifficultySection, DynamicSampling
from rethink.recipe.section import Counts as Counts
from rethink.recipe.section import Section as Section


class MixtureOfExperts(Section):
    """Shape of the expert layers, for estimates without the weights."""

    experts: int = Field(gt=0)
    """Routed experts per layer."""
    experts_per_token: int = Field(gt=0)
    """Routed experts that process each token."""
    shared_experts: int = Field(default=0, ge=0)
    """Experts that process every token."""
    expert_intermediate_size: int = Field(gt=0)
    """Hidden width of one expert."""
    dense_layers: int = Field(default=0, ge=0)
    """Leading layers with a dense feed-forward instead of experts."""


class ModelShape(Section):
    """Declared shape of a model, so that a dry run needs neither weights nor a hub."""

    hidden_size: int = Field(gt=0)
    """Width of the residual stream (E)."""
    layers: int = Field(gt=0)
    """Decoder layers (L)."""
    heads: int = Field(gt=0)
    """Query heads (H)."""
    kv_heads: int = Field(gt=0)
    """Key/value heads (K)."""
    head_dim: int = Field(gt=0)
    """Width of a head (D)."""
    intermediate_size: int = Field(gt=0)
    """Width of the dense feed-forward."""
    vocab_size: int = Field(gt=0)
    """Entries of the vocabulary (V)."""
    context: int = Field(gt=0)
    """Most tokens of prompt and completion together."""
    tie_embeddings: bool = False
    """Whether the head reuses the embedding."""
    mixture: MixtureOfExperts | None = None
    """Expert layers; None for a dense model."""
    kv_values_per_token: int | None = Field(default=None, gt=0)
    """Values per token in the cache of one layer, if that is not 2 K D (latent attention)."""
    total_parameters: int | None = Field(default=None, gt=0)
    """Published parameter count, if the fields above do not determine it (e.g. latent attention)."""
    active_parameters: int | None = Field(default=None, gt=0)
    """Published parameters that are active per token."""


class ModelSection(Section):
    """The model that is trained."""

    path: str = "embedded"
    """`embedded` (SmolLM2-135M-Instruct), a hub id, a local Hugging Face folder, or a GGUF file; `tiny-random` is a toy
    model with random weights, to test a recipe."""
    revision: str | None = None
    """Branch, tag or commit on the hub."""
    dtype: Literal["auto", "bfloat16", "float32"] = "auto"
    """Compute type. `auto` measures both at start and records the choice; master weights are always fp32."""
    trust_remote_code: Annotated[bool, Counts.NEVER] = False
    """Whether code in the model's repository may run. Only for repositories that you trust."""
    shape: Annotated[ModelShape | None, Counts.NEVER] = None
    """Declared shape: lets `--dry-run` estimate without the weights."""

    @property
    def value_bytes(self) -> int:
        """Bytes of a number in the compute type; `auto` counts as bf16, as in estimates."""
        return 4 if self.dtype == "float32" else 2


class Example(Section):
    """One worked example before the question."""

    question: str
    """The user's turn."""
    completion: str
    """The assistant's whole turn, including the text of `prefill`."""


class PromptSection(Section):
    """How a problem is rendered to token ids."""

    template: Literal["chat", "r1-zero", "raw"] = "chat"
    """`chat`: the model's own chat template; `r1-zero`: the paper's conversation template; `raw`: only the
    instruction."""
    system: str | None = None
    """System message (`chat` only)."""
    instruction: str = "{question}"
    """The user's turn; `{question}` is replaced by the problem."""
    examples: tuple[Example, ...] = ()
    """Few-shot examples, as earlier turns."""
    prefill: str = ""
    """Beginning of the assistant's turn (e.g. `<think>`): part of the prompt, never in the loss."""
    max_tokens: int | None = Field(default=None, gt=0)
    """Longest prompt allowed; a longer one is an error that names the problem. None: the rest of the context."""


class CurriculumStage(Section):
    """From this step on, these parameters replace those of the source."""

    step: int = Field(ge=0)
    """First step (optimizer update) of the stage."""
    params: dict[str, Any] = Field(default_factory=dict)
    """Override entries of the source's `params`."""
    weight: float | None = Field(default=None, ge=0)
    """New weight in the mixture; None keeps it."""


class TaskSource(Section):
    """A source of problems."""

    kind: Literal["reasoning-gym", "jsonl", "hub", "python"]
    """`reasoning-gym` (by `name`), `jsonl` (a file), `hub` (a data set; extra `hub`), `python` (`module:function`)."""
    name: str
    """Task name, file path, data-set id, or `module:function`."""
    params: dict[str, Any] = Field(default_factory=dict)
    """Parameters of a reasoning-gym task or keyword arguments of the function."""
    weight: float = Field(default=1.0, ge=0)
    """Share in the mixture, relative to the other sources."""
    curriculum: tuple[CurriculumStage, ...] = ()
    """Changes by step. Held-out problems use the last stage."""
    difficulty: DifficultySection | None = None
    """Bounds of the measured pass rate outside which a problem is left out for some epochs (`jsonl`, `hub`, `python`);
    `{}` takes the default bounds. None: every problem is asked once an epoch."""
    question_key: str = "question"
    """Key of the question (`jsonl`, `hub`, `python`)."""
    answer_key: str = "answer"
    """Key of the gold answer (`jsonl`, `hub`, `python`)."""
    answer_format: Literal["auto", "gsm8k", "boxed", "plain"] = "auto"
    """How the gold answer is read: after `####`, in the last `\\boxed{}`, or unchanged. `auto` detects the form."""
    checker: Literal["auto", "exact-number", "math-verify", "task"] = "auto"
    """What compares answers: the task's own scorer (`reasoning-gym`, which has no other, and `python` functions that
    return one), exact numbers, or math-verify. `auto`: the task's scorer if it has one, else exact numbers if every
    gold answer is a number, else math-verify."""
    split: str = "train"
    """Split of a hub data set."""
    config: str | None = None
    """Configuration name of a hub data set."""
    held_out: str | None = None
    """Separate file or split for held-out problems; None: one question in six of this source, by a hash of its content.
    Reordered duplicates (`3 + 5`, `5 + 3`) are kept on one side, so no held-out problem has a reordered duplicate in
    training."""
    reward: tuple[str, ...] | None = None
    """Names of the reward functions that score this source's problems; None: all. Others do not apply and are skipped.
    If none that applies reads the gold answer, rows need no `answer_key`."""

    def weight_at(self, step: int) -> float:
        """Weight in the mixture at a step, by the curriculum."""
        changes = [stage.weight for stage in self.curriculum if stage.step <= step and stage.weight is not None]
        return changes[-1] if changes else self.weight


class RolloutSection(Section):
    """How completions are sampled."""

    prompts_per_batch: int = Field(default=8, gt=0)
    """Prompts in a rollout batch (P)."""
    group_size: int = Field(default=8, gt=0)
    """Completions per prompt (G)."""
    max_new_tokens: int | dict[int, int] = 256
    """Token limit of a completion; or `{step: limit}`, each applying from its step on (the first key must be 0)."""
    temperature: float = Field(default=1.0, gt=0)
    """Sampling temperature; the loss uses the same."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    """Nucleus mass; below 1 needs `keep_sampling_mask` or `allow_truncated`."""
    top_k: int = Field(default=0, ge=0)
    """Number of most likely tokens kept; 0 keeps all; other values need `keep_sampling_mask` or `allow_truncated`."""
    allow_truncated: bool = False
    """Train on samples from a distribution that top-p or top-k truncated, although the loss uses the full one."""
    keep_sampling_mask: bool = False
    """Store with each token which ones top-p and top-k left to draw from, and use log-probabilities over these alone in
    training: exact for truncated samples (DeepSeek-V3.2, arXiv 2512.02556, section 3.1)."""
    stop_strings: tuple[str, ...] = ()
    """Strings that end a completion, in addition to the model's end-of-turn tokens."""
    dynamic_sampling: DynamicSampling | None = None
    """Whether and how groups without signal are replaced; `{}` turns it on with its defaults. None: they stay in the
    batch and give no gradient."""
    lag: int = Field(default=0, ge=0, le=8)
    """Batches between sampling and training: batch b is sampled by the policy after batch b - 1 - lag; 0: on-policy.
    With `--cluster`, workers sample batch b + lag while batch b is trained on; in one process the result is the same,
    and nothing is faster."""
    engine: str = "auto"
    """What samples. `torch`: the engine of Rethink's own decoder; `transformers`: slower, for other architectures;
    `auto`: the first of these that takes the model. `vllm`: vLLM, with a copy of the weights; its log-probabilities are
    its own, so that `algorithm.correction` is `tis` unless it is set. An installed package may bring others."""
    max_concurrent: int | None = Field(default=None, gt=0)
    """Sequences decoded at once; None: what the KV budget allows (the engine `transformers` takes 16, `vllm` its own
    default)."""
    kv_budget_gb: float | None = Field(default=None, gt=0)
    """Memory for keys and values (GiB) of the engines `torch` and `vllm`, which keeps it all the time; None: a share of
    the free memory at start, recorded. The engine `transformers` is limited only by `max_concurrent`."""

    @property
    def sampling_rounds(self) -> DynamicSampling:
        """`dynamic_sampling`, or what is the same as none: one round, whatever comes of it."""
        return self.dynamic_sampling or DynamicSampling(max_rounds=1, when_short="fill")

    @property
    def prompts_at_once(self) -> int:
        """Most prompts of a round."""
        return max(self.prompts_per_batch, self.sampling_rounds.prompts_per_round or 0)

    def max_new_tokens_at(self, step: int) -> int:
        """Token limit of the rollouts sampled for `step` (0-based)."""
        limit = self.max_new_tokens
        if isinstance(limit, int):
            return limit
        return limit[max(first for first in limit if first <= step)]


class RewardPart(Section):
    """One named, weighted reward function."""

    name: str
    """Name in the metrics: a built-in reward, or your own name together with `builtin` or `function`."""
    builtin: str | None = None
    """The built-in reward, if `name` is another name; for example for two `repetition` entries with different
    options."""
    weight: float = 1.0
    """Factor in the sum; 0 records the score without using it."""
    function: str | None = None
    """Your own function, `module:function(problem, text) -> float | None`."""
    params: dict[str, Any] = Field(default_factory=dict)
    """Options of the reward function."""
    model: str | None = None
    """Folder of the reward model (for `reward-model`)."""
    on: Literal["summary", "response"] | None = None
    """The text that the reward model scores: after `</think>`, or the whole response. None: as it was trained."""
    from_step: int = Field(default=0, ge=0)
    """First step (optimizer update, from 0) whose rollouts are scored; before, the reward does not apply. DeepSeek-R1
    uses preference rewards in the last 400 of 1,700 steps: `from_step: 1300`."""
    until_step: int | None = Field(default=None, gt=0)
    """First step whose rollouts are no longer scored; None: never."""

    @property
    def is_reward_model(self) -> bool:
        """Whether it is the built-in reward `reward-model`."""
        return self.function is None and (self.builtin or self.name) == "reward-model"

    def holds_at(self, step: int) -> bool:
        """Whether it applies to rollouts sampled for `step` (0-based)."""
        return self.from_step <= step and (self.until_step is None or step < self.until_step)


class RewardSection(Section):
    """The reward: a weighted sum of named reward functions."""

    parts: tuple[RewardPart, ...] = (RewardPart(name="accuracy"), RewardPart(name="format"))
    """The reward functions. The default is the paper's: accuracy and format with equal weight."""
    answer: Literal["auto", "answer-tag", "boxed", "hash", "last-number", "text"] = "answer-tag"
    """Rule that finds the answer in a completion; `docs/rewards.md` defines each rule."""
    seconds: Annotated[float, Counts.WHEN_NEW] = Field(default=5.0, gt=0)
    """Time limit for scoring one completion; a checker that exceeds it is killed."""
    memory_gb: Annotated[float, Counts.WHEN_NEW] = Field(default=1.0, gt=0)
    """Memory (GiB) that a reward worker may use."""
    workers: Annotated[int | None, Counts.NEVER] = Field(default=None, gt=0)
    """Reward workers that compute at once; None: the number of cores. Stuck workers do not count."""
    max_failure_share: float = Field(default=0.5, ge=0, le=1)
    """Stop the run if more than this share of a batch's rewards fail (abstentions do not count)."""

    def names_for(self, task: TaskSource) -> tuple[str, ...]:
        """Names of the parts that apply to a source's problems, whatever the step."""
        return task.reward if task.reward is not None else tuple(part.name for part in self.parts)


class EndpointSection(Section):
    """A model behind an OpenAI-compatible endpoint."""

    model: str | None = None
    """Name of the model at the endpoint; None: no endpoint is used."""
    url: Annotated[str | None, Counts.NEVER] = None
    """Base URL of the endpoint, such as `http://127.0.0.1:8000/v1`."""
    key_env: Annotated[str | None, Counts.NEVER] = None
    """Environment variable that holds the endpoint's key; None: no key is sent."""
    seconds: Annotated[float, Counts.NEVER] = Field(default=600.0, gt=0)
    """Time limit of a request; a reply that arrives slowly is cut off after at most twice as long."""
    attempts: Annotated[int, Counts.NEVER] = Field(default=5, gt=0, le=20)
    """Tries before a request counts as failed."""
    concurrency: Annotated[int, Counts.NEVER] = Field(default=8, gt=0, le=64)
    """Requests at once."""
    max_requests: Annotated[int | None, Counts.NEVER] = Field(default=None, gt=0)
    """Requests of one process, with retries; further ones fail."""
    max_total_tokens: Annotated[int | None, Counts.NEVER] = Field(default=None, gt=0)
    """Prompt and reply tokens of one process, as counted by the endpoint; after that, requests fail."""


class AlgorithmSection(Section):
    """The objective and its parts (docs/algorithms.md). Defaults are those of GRPO (DeepSeekMath equations 3-4,
    DeepSeek-R1 equations 1-3); another `type` has its paper's, and whatever is set here wins.
    """

    type: str = "grpo"
    """The objective: `grpo`, `dapo`, `reinforce`, with a critic `ppo`, and many others, or one of an installed package;
    `rethink algorithms` lists them with their defaults."""
    options: dict[str, float] = Field(default_factory=dict)
    """Numbers that only this objective, or what it is combined with, has; `docs/algorithms.md` says which."""
    advantage: Literal[
        "std", "mean", "leave-one-out", "none", "moving-average", "greedy", "batch", "mean-batch", "gpg", "max-rl",
        "gdpo", "pass-at-k", "max-at-k", "gae",
    ] = "std"  # fmt: skip
    """How rewards become advantages; docs/algorithms.md has each. `std`: (r - mean) / (std + 1e-6), std unbiased over
    the group; `leave-one-out`: r - mean of the others; `gae`: of each token, against a critic (section `critic`)."""
    aggregation: Literal["sequence", "token", "fixed"] = "sequence"
    """How token losses are averaged: within a completion, then over completions (the paper's 1/G); over all tokens; or
    by a fixed denominator (`fixed_denominator`)."""
    fixed_denominator: float | None = Field(default=None, gt=0)
    """Denominator of the summed loss of one completion with `fixed`, in tokens; None: `max_new_tokens`."""
    mask_truncated: bool = False
    """Whether completions that the token limit cut off are left out of the loss: overlong filtering (DAPO, arXiv
    2503.14476, section 3.4). No denominator counts them; their rewards count in the advantages of their group."""
    clip_low: float | None = Field(default=0.2, ge=0)
    """Lower clip: the ratio is clipped at 1 - clip_low; None, 1 or more never clips."""
    clip_high: float | None = Field(default=0.2, ge=0)
    """Upper clip: the ratio is clipped at 1 + clip_high (the paper's 10 is allowed); None never clips above."""
    dual_clip: float | None = Field(default=None, gt=1)
    """Upper bound of the ratio where the advantage is negative (arXiv 1912.09729, equation 5; 3 is usual); None: no
    such bound."""
    correction: Literal["none", "tis", "sequence-tis", "mask", "sequence-mask"] = "none"
    """Weight of the policy loss that makes up for an engine whose log-probabilities differ from the trainer's, or for
    `rollout.lag`: truncated importance sampling by token or by completion, or masking of tokens or completions outside
    bounds. `none` with a lag: the ratio is taken to the policy that sampled. With the engine `vllm` the default is
    `tis`."""
    correction_cap: float | None = Field(default=None, gt=0)
    """Largest weight of the correction; None: its default (2; `mask`: 5)."""
    correction_floor: float | None = Field(default=None, ge=0)
    """Smallest weight that a mask keeps; None: its default (`mask`: 0.5; `sequence-mask`: 0)."""
    entropy_bonus: float = Field(default=0.0, ge=0)
    """Weight of the entropy (nats) of each token's distribution, which the loss then raises; 0: none."""
    top_entropy: float = Field(default=1.0, gt=0, le=1)
    """Share of a mini-batch's tokens, those of the highest entropy, that the policy loss trains (Wang et al., arXiv
    2506.01939: 0.2); 1: all."""
    covariance: Literal["none", "clip", "kl"] = "none"
    """Treats the few tokens whose log-probability and advantage are high together, which drive the entropy down (Cui et
    al., arXiv 2505.22617): `clip` drops some of them, `kl` holds them near the policy that sampled."""
    off_policy_mask: float | None = Field(default=None, gt=0)
    """Drops completions of negative advantage from the policy loss where log p_engine - log p is above this (nats, mean
    of the completion's tokens): DeepSeek-V3.2, which prints no value. None: none."""
    beta: float = Field(default=0.0, ge=0)
    """Weight of the KL to the reference model; 0: no reference model."""
    kl: Literal["k1", "k2", "k3", "unbiased-k3"] = "k3"
    """Estimator of the KL (Schulman 2020): k3 is the paper's; k1 and k2 have the gradient of KL(policy || reference);
    unbiased-k3 has it in later updates of a batch too (DeepSeek-V3.2)."""
    kl_in: Literal["loss", "reward"] = "loss"
    """Where the KL goes: a term of the loss, or taken off the reward (log p - log p_ref of each token, before the first
    update on the batch; `kl` is not used)."""
    kl_target: float | None = Field(default=None, gt=0)
    """KL (nats a completion) that `beta` is adapted to after each rollout batch (Ziegler et al., arXiv 1909.08593);
    None: `beta` stays."""
    reference_every: int | None = Field(default=None, gt=0)
    """Steps between replacements of the reference model by the policy; None: never."""
    mini_batches: int = Field(default=1, gt=0)
    """Mini-batches per rollout batch, cut at group boundaries; each is one step."""
    epochs: int = Field(default=1, gt=0)
    """Passes over a rollout batch (mu of Algorithm 1)."""

    @model_validator(mode="after")
    def _take_defaults(self) -> AlgorithmSection:
        from rethink.recipe.objective import resolve  # finds the objectives, whose modules read recipes

        plain = {name: info.get_default(call_default_factory=True) for name, info in type(self).model_fields.items()}
        given = {name: getattr(self, name) for name in self.model_fields_set}
        for name, value in resolve(self.type, given, plain).items():
            object.__setattr__(self, name, value)  # frozen; `model_fields_set` stays what the recipe sets
        return self

    @property
    def needs(self) -> frozenset[str]:
        """What an update must compute beside the policy's log-probabilities; keys of `objective.NEEDS`."""
        from rethink.recipe.objective import CORRECTIONS, objective_named

        needs: set[str] = set(objective_named(self.type).needs)
        if self.beta > 0:
            needs.add("reference")
        if self.advantage == "gae":
            needs.add("values")
        if self.kl_coefficient > 0 and self.kl == "unbiased-k3":
            needs.add("old")
        if self.top_entropy < 1 or self.covariance != "none":
            needs |= {"mini-batch"} | ({"old"} if self.covariance == "kl" else set())
        if self.off_policy_mask is not None:
            needs |= {"engine", "sequence"}
        if self.correction != "none":
            needs |= {"old", "engine"} | ({"sequence"} if CORRECTIONS[self.correction].sequence else set())
        return frozenset(needs)

    @property
    def moves_all_groups(self) -> bool:
        """Whether the loss has a gradient in groups without advantages, too."""
        return self.kl_coefficient > 0 or self.entropy_bonus > 0

    @property
    def kl_coefficient(self) -> float:
        """Of the KL in the loss."""
        return self.beta if self.kl_in == "loss" else 0.0


class OptimizerSection(Section):
    """AdamW on fp32 master weights."""

    learning_rate: float = Field(default=1e-6, gt=0)
    """Peak learning rate."""
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """Schedule after the warm-up."""
    warmup_steps: int = Field(default=0, ge=0)
    """Steps of linear warm-up; the first step has the peak rate divided by this number."""
    final_rate: float = Field(default=0.0, ge=0)
    """Learning rate that `linear` and `cosine` reach after the last step. The last step itself has a slightly higher
    rate, never 0."""
    beta1: float = Field(default=0.9, ge=0, lt=1)
    """Decay of the first moment."""
    beta2: float = Field(default=0.95, ge=0, lt=1)
    """Decay of the second moment."""
    epsilon: float = Field(default=1e-8, gt=0)
    """Added to the root of the second moment."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Decoupled weight decay, on matrices only."""
    max_grad_norm: float | None = Field(default=1.0, gt=0)
    """Bound of the global gradient norm; None: no clipping."""
    micro_batch_tokens: int | None = Field(default=None, gt=0)
    """Most tokens in one forward and backward pass. It decides memory, and the order in which sums are rounded. None:
    chosen from the free memory, recorded."""
    over_memory: Annotated[bool, Counts.NEVER] = False
    """Train even if the plan needs more memory than is free (`--over-memory`). The run may be killed."""
    lanes: int | None = Field(default=None, gt=0)
    """Parts of a step whose gradients are added up one by one, so that several trainer ranks can share the step
    (`--cluster`). Another number rounds sums in another order. None: the number of ranks at the start, recorded."""


class EvaluationTimes(Section):
    """When a run that trains is evaluated."""

    every: Annotated[int | None, Counts.WHEN_NEW] = Field(default=None, gt=0)
    """Steps between evaluations, in addition to before and after; the best model of a policy is kept."""


class EvaluationSection(EvaluationTimes):
    """Held-out evaluation."""

    problems: int = Field(default=200, ge=0)
    """Held-out problems; 0 turns evaluation off."""
    every_problems: int | None = Field(default=None, gt=0)
    """Problems of the evaluations during training (the first held-out ones); None: all."""
    temperature: float = Field(default=0.0, ge=0)
    """0: greedy."""
    max_new_tokens: int | None = Field(default=None, gt=0)
    """Token limit; None: the limit of the rollouts at the last step."""


class CheckpointSection(Section):
    """What is saved during the run."""

    every: int = Field(default=10, gt=0)
    """Steps between recovery checkpoints (a checkpoint is also made at the end and on Ctrl-C)."""
    keep: int = Field(default=2, gt=0)
    """Recovery checkpoints kept."""
