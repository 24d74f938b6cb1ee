"""Reinforcement learning with GRPO as a recipe: `kind: grpo`.

A *rollout batch* is `prompts_per_batch` × `group_size` completions. It is cut at group boundaries into `mini_batches`,
and training passes over it `epochs` times. Each mini-batch is one optimizer update, and a *step* is one optimizer
update. Every `*_steps` and `every` counts steps.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from rethink.errors import RecipeError
from rethink.recipe.base import AskingRecipe, HeldOut, TrainingRecipe
from rethink.recipe.kind import listed
from rethink.recipe.objective import objective_named, objectives
from rethink.recipe.schema import (
    AlgorithmSection,
    Counts,
    EvaluationSection,
    RolloutSection,
    Section,
    TaskSource,
)
from rethink.recipe.terms import ADVANTAGES
from rethink.rollout.engines import check_trains, is_corrected, keeps_mask

DEFAULT_CORRECTION: Literal["tis"] = "tis"
"""Of an engine whose log-probabilities another program computes."""


class CriticSection(Section):
    """A model of its own that estimates, at each token, the reward still to come. Advantages are taken against it, and
    it learns from the same rollouts. Defaults are PPO's; another `algorithm.type` may have its paper's.
    """

    model: str | None = None
    """What it begins as: a model or a reward model of the policy's tokenizer, named as `model.path` is; None: the
    policy's own model. One without a value head begins with a head of zeros, so that its first values are 0."""
    gamma: float = Field(default=1.0, gt=0, le=1)
    """Discount of the next token's value."""
    gae_lambda: float = Field(default=0.95, ge=0, le=1)
    """Lambda of the advantages: 0 trusts the critic's next value, 1 what was earned."""
    adaptive_lambda: float | None = Field(default=None, gt=0)
    """In place of `gae_lambda`, a lambda of each completion by its length: 1 - 1 / (adaptive_lambda x length), at least
    0 (VAPO: 0.05); None: `gae_lambda`."""
    value_lambda: float | None = Field(default=None, ge=0, le=1)
    """Lambda of the returns that the critic learns; None: that of the advantages."""
    whiten: bool = True
    """Whether advantages get the mean 0 and the standard deviation 1, over all tokens of the rollout batch."""
    value_clip: float | None = Field(default=0.2, gt=0)
    """How far the updates on a batch may move a value, in units of reward; None: without a bound."""
    learning_rate: float = Field(default=1e-5, gt=0)
    """Constant. The other numbers of its AdamW are those of `optimizer`."""
    warmup_steps: int = Field(default=0, ge=0)
    """First steps in which the critic alone is trained, and the policy stays as it is. The policy's own schedule begins
    behind them."""
    mini_batches: int = Field(default=1, gt=0)
    """Updates of the critic in a pass over a rollout batch, which is cut at group boundaries. They are all made before
    the policy's first update on the batch."""
    epochs: int = Field(default=1, gt=0)
    """Passes of the critic over a rollout batch."""


class Recipe(AskingRecipe, TrainingRecipe):
    """A whole GRPO run."""

    kind: Literal["grpo"] = "grpo"
    """Kind of run."""
    steps: Annotated[int, Counts.WHEN_NEW] = Field(gt=0)
    """Number of optimizer updates. Raise it to extend a finished run. If it is not a multiple of the steps that share a
    rollout batch (`mini_batches` x `epochs`), only the first part of the last batch is trained on."""
    tasks: tuple[TaskSource, ...] = Field(min_length=1)
    """Sources of problems, mixed by weight."""
    rollout: RolloutSection = RolloutSection()
    """Sampling."""
    algorithm: AlgorithmSection = Field(default_factory=AlgorithmSection)
    """The objective."""
    critic: CriticSection | None = None
    """A critic, for `algorithm.advantage: gae` (the types `ppo`, `actor-critic` and `vapo`); None: there is none."""
    evaluation: EvaluationSection = EvaluationSection()
    """Held-out evaluation."""

    @property
    def length(self) -> int:
        """Optimizer updates in all."""
        return self.steps

    @property
    def policy_steps(self) -> int:
        """Those of the policy, which begin behind the critic's warm-up."""
        return self.steps - self.held_steps

    @property
    def held_steps(self) -> int:
        """First steps in which the policy stays as it is."""
        return 0 if self.critic is None else self.critic.warmup_steps

    @property
    def longest_completion(self) -> int:
        """The highest token limit at any step of this run, in rollouts or evaluations."""
        return max(self.token_limits().values())

    @property
    def steps_per_batch(self) -> int:
        """Optimizer updates that share one rollout batch."""
        return self.algorithm.mini_batches * self.algorithm.epochs

    @property
    def order_follows(self) -> bool:
        """Whether which problems a batch asks depends on what earlier batches sampled."""
        return self.rollout.dynamic_sampling is not None or any(task.difficulty is not None for task in self.tasks)

    def token_limits(self) -> dict[str, int]:
        """Every token limit that holds at some step of this run, by its key."""
        limit, evaluation = self.rollout.max_new_tokens, self.evaluation
        if isinstance(limit, int):
            limits = {"rollout.max_new_tokens": limit}
        else:
            limits = {f"rollout.max_new_tokens.{step}": n for step, n in limit.items() if step < self.steps}
        if evaluation.max_new_tokens is not None and evaluation.problems:
            limits["evaluation.max_new_tokens"] = evaluation.max_new_tokens
        return limits

    def held_out_sampling(self) -> HeldOut | None:
        """How held-out problems are sampled; None: there are none."""
        evaluation = self.evaluation
        if not evaluation.problems:
            return None
        return HeldOut(
            problems=evaluation.problems,
            temperature=evaluation.temperature,
            max_new_tokens=evaluation.max_new_tokens or self.rollout.max_new_tokens_at(self.steps - 1),
            stop_strings=self.rollout.stop_strings,
        )

    def settle(self) -> None:
        """An engine whose numbers are its own gets a correction, unless the recipe says which, or `none`; TRPO
        computes in fp32; a critic has the objective's defaults.
        """
        given = {name: getattr(self.algorithm, name) for name in self.algorithm.model_fields_set}
        if "correction" not in given and is_corrected(self.rollout.engine):
            object.__setattr__(self, "algorithm", AlgorithmSection(**given, correction=DEFAULT_CORRECTION))
        if self.model.dtype == "auto" and objective_named(self.algorithm.type).update == "trust-region":
            object.__setattr__(self, "model", self.model.model_copy(update={"dtype": "float32"}))
        if self.critic is not None:
            given = {name: getattr(self.critic, name) for name in self.critic.model_fields_set}
            usual = objective_named(self.algorithm.type).critic
            object.__setattr__(self, "critic", CriticSection(**{**usual, **given}))

    def contradictions(self) -> Iterator[str]:
        """What cannot be meant in a run of this kind."""
        yield from _engine(self.rollout.engine)
        yield from _batch(self)
        yield from _critic(self)
        yield from _trust_region(self)
        yield from _sampling(self.rollout)
        yield from _dynamic_sampling(self)
        yield from _algorithm(self)
        yield from _correction(self.rollout, self.algorithm)
        yield from _evaluation(self.evaluation)
        yield from super().contradictions()


def _engine(name: str) -> Iterator[str]:
    try:
        check_trains(name)
    except RecipeError as error:
        yield f"`rollout.engine`: {error}"


def _batch(recipe: Recipe) -> Iterator[str]:
    prompts, parts = recipe.rollout.prompts_per_batch, recipe.algorithm.mini_batches
    kind, size = recipe.algorithm.advantage, recipe.rollout.group_size
    if size < ADVANTAGES[kind].least_group:
        alone = [f"`{name}`" for name, other in ADVANTAGES.items() if other.least_group == 1 and name != "gae"]
        yield (
            f"`rollout.group_size` is {size}: `algorithm.advantage={kind}` compares the completions of one prompt with "
            "each other, and one alone has no advantage, so nothing would be learned. Use 2 or more; 8 and 16 are "
            f"usual. Or use an advantage that needs no group: {', '.join(alone)}; or a critic "
            "(`algorithm.type=ppo critic={}`)."
        )
    elif (k := recipe.algorithm.options.get("k", 1)) > size:
        yield (
            f"`algorithm.options.k` is {k:g}, but `rollout.group_size` {size} gives only {size} completions to choose "
            f"{k:g} of. Use `algorithm.options.k={size}` or less, or `rollout.group_size={k:g}` or more."
        )
    yield from _cut("algorithm.mini_batches", parts, prompts)


def _cut(field: str, parts: int, prompts: int) -> Iterator[str]:
    if prompts % parts:
        fitting = [n for n in range(1, prompts + 1) if prompts % n == 0]
        near = min(fitting, key=lambda n: abs(n - parts))
        more = -(-prompts // parts) * parts
        yield (
            f"`rollout.prompts_per_batch` {prompts} cannot be cut into `{field}` {parts} of equal size "
            f"(mini-batches are cut between groups). Use `{field}={near}` or `rollout.prompts_per_batch={more}`."
        )


def _critic(recipe: Recipe) -> Iterator[str]:
    critic, algorithm = recipe.critic, recipe.algorithm
    learners = [name for name, objective in objectives().items() if "values" in objective.needs]
    listed = " or ".join(f"`algorithm.type={name}`" for name in learners)
    if critic is None:
        if "values" in algorithm.needs:
            yield (
                f"`algorithm.type={algorithm.type}` with `algorithm.advantage=gae` takes advantages against a critic's "
                "values, and the recipe has no section `critic`. Add `critic: {}` (on the command line `critic={}`), "
                "or compare the completions of a group: `algorithm.type=grpo`."
            )
        return
    if "values" not in algorithm.needs:
        yield (
            f"`critic` is set, but `algorithm.type={algorithm.type}` takes its advantages from the group "
            f"(`algorithm.advantage={algorithm.advantage}`) and never asks a critic. A critic goes with "
            f"`algorithm.advantage=gae`: set that, or {listed}; or remove `critic`."
        )
    yield from _cut("critic.mini_batches", critic.mini_batches, recipe.rollout.prompts_per_batch)
    if critic.adaptive_lambda is not None and critic.gae_lambda != CriticSection.model_fields["gae_lambda"].default:
        yield (
            f"`critic.gae_lambda` is {critic.gae_lambda:g}, but `critic.adaptive_lambda` {critic.adaptive_lambda:g} "
            "takes its place. Remove it, or set `critic.adaptive_lambda=null`."
        )
    if recipe.rollout.dynamic_sampling is not None and recipe.rollout.group_size == 1:
        yield (
            "`rollout.dynamic_sampling` keeps groups whose rewards differ, and with `rollout.group_size` 1 no group's "
            "do. Remove it: with a critic every completion has a signal; or use a larger `rollout.group_size`."
        )
    if critic.warmup_steps >= recipe.steps:
        yield (
            f"`critic.warmup_steps` {critic.warmup_steps} is not below `steps` {recipe.steps}, so the policy would "
            f"never be trained. Use at most {recipe.steps - 1}."
        )


def _trust_region(recipe: Recipe) -> Iterator[str]:
    if objective_named(recipe.algorithm.type).update != "trust-region":
        return
    if recipe.model.dtype != "float32":
        yield (
            f"`model.dtype` is `{recipe.model.dtype}`, and `algorithm.type={recipe.algorithm.type}` computes in fp32: "
            "in bf16 the KL that its line search measures would be rounding. Set `model.dtype=float32`."
        )
    if (recipe.optimizer.lanes or 1) > 1:
        yield (
            f"`optimizer.lanes` is {recipe.optimizer.lanes}, and the step of `algorithm.type={recipe.algorithm.type}` "
            "is one of all weights, which ranks cannot share. Remove it."
        )


def _sampling(rollout: RolloutSection) -> Iterator[str]:
    cut = [f"`rollout.top_p={rollout.top_p:g}`"] if rollout.top_p < 1 else []
    cut += [f"`rollout.top_k={rollout.top_k}`"] if rollout.top_k > 0 else []
    if cut and not rollout.allow_truncated and not rollout.keep_sampling_mask:
        yield (
            f"{' and '.join(cut)} would train on samples of a cut distribution, while ratio and KL use the full one, "
            "which biases the update. Sample from the full distribution (`rollout.top_p=1 rollout.top_k=0`), train on "
            "the cut one (`rollout.keep_sampling_mask=true`), or accept the bias with `rollout.allow_truncated=true`."
        )
    if rollout.keep_sampling_mask:
        yield from _sampling_mask(rollout, bool(cut))
    if "" in rollout.stop_strings:
        yield "`rollout.stop_strings` holds an empty string, which would end every completion at once. Remove it."
    limit = rollout.max_new_tokens
    if isinstance(limit, int):
        if limit < 1:
            yield f"`rollout.max_new_tokens` is {limit}; a completion needs room for at least 1 token."
        return
    if 0 not in limit:
        first = f"its first step is {min(limit)}" if limit else "it is empty"
        yield (
            f"`rollout.max_new_tokens` must say which limit holds from step 0 on, but {first}. Begin it with `0: …`, "
            "for example `{0: 256, 100: 512}`."
        )
    if min(limit, default=0) < 0 or min(limit.values(), default=1) < 1:
        yield f"`rollout.max_new_tokens` is {limit}; steps must be 0 or more and limits 1 or more."


def _sampling_mask(rollout: RolloutSection, cut: bool) -> Iterator[str]:
    key = "`rollout.keep_sampling_mask`"
    if not cut:
        yield f"{key} has no effect, since `rollout.top_p` 1 and `rollout.top_k` 0 cut nothing. Set one, or remove it."
    if rollout.allow_truncated:
        yield f"{key} takes the cut distribution for the loss, `rollout.allow_truncated` the full one. Remove one."
    if not keeps_mask(rollout.engine):
        yield (
            f"{key} needs an engine that says which tokens were left to draw from, and `{rollout.engine}` "
            "(`rollout.engine`) does not. Set `rollout.engine=auto`, or sample from the full distribution "
            "(`rollout.top_p=1 rollout.top_k=0`)."
        )


def _dynamic_sampling(recipe: Recipe) -> Iterator[str]:
    bounds, rollout = recipe.rollout.dynamic_sampling, recipe.rollout
    if bounds is None:
        return
    key = "`rollout.dynamic_sampling"
    if bounds.max_rounds == 1 and rollout.prompts_at_once == rollout.prompts_per_batch:
        yield (
            f"{key}.max_rounds` is 1, so no further problems would be sampled in place of groups without signal. Use 2 "
            f"or more (10 is usual), or a first round of more prompts than the batch's {rollout.prompts_per_batch} "
            "(`rollout.dynamic_sampling.prompts_per_round`)."
        )
    if bounds.reward is None:
        return
    part = next((part for part in recipe.reward.parts if part.name == bounds.reward), None)
    if part is None:
        names = listed(part.name for part in recipe.reward.parts)
        yield f"{key}.reward` is `{bounds.reward}`, which is no part of `reward.parts`. Use {names}, or remove it."
        return
    without = next((i for i, task in enumerate(recipe.tasks) if part.name not in recipe.reward.names_for(task)), None)
    if without is not None or not all(part.holds_at(step) for step in (0, recipe.steps - 1)):
        where = "at some steps" if without is None else f"to `tasks.{without}`"
        yield (
            f"{key}.reward` is `{part.name}`, but this part does not apply {where}, where then no group would have a "
            "signal. Name a part that always applies, or remove it: then the whole rewards must differ."
        )


def _algorithm(recipe: Recipe) -> Iterator[str]:
    algorithm = recipe.algorithm
    if algorithm.reference_every is not None and algorithm.beta == 0:
        yield (
            f"`algorithm.reference_every` is {algorithm.reference_every}, but with `algorithm.beta` 0 there is no "
            "reference model to replace. Set a beta, such as `algorithm.beta=0.001`, or remove `reference_every`."
        )
    fresh = recipe.steps_per_batch == 1 and not recipe.rollout.lag
    if algorithm.off_policy_mask is not None and fresh and not is_corrected(recipe.rollout.engine):
        yield (
            f"`algorithm.off_policy_mask` is {algorithm.off_policy_mask:g}, but each batch has one update, by the "
            "policy that sampled it, so nothing would ever be masked. Set `algorithm.mini_batches=2` or more, or "
            "remove it."
        )
    if algorithm.covariance == "kl" and fresh:
        yield (
            "`algorithm.covariance` is `kl`, but each batch has one update, by the policy that sampled it, so the "
            "distance from it is 0. Set `algorithm.mini_batches=2` or more, or use `algorithm.covariance=clip`."
        )
    chosen = [f"`algorithm.top_entropy={algorithm.top_entropy:g}`"] if algorithm.top_entropy < 1 else []
    chosen += ["`algorithm.covariance=clip`"] if algorithm.covariance == "clip" else []
    if chosen and "sequence" in objective_named(algorithm.type).needs:
        yield (
            f"{' and '.join(chosen)} takes single tokens out of the policy loss, but `algorithm.type={algorithm.type}` "
            "has one ratio for a whole completion. Remove it, or choose a type whose ratio is of tokens, such as "
            "`grpo`."
        )
    low, high = (algorithm.options.get(f"cov_{side}", 0) for side in ("low", "high"))
    if low > high:
        yield (
            f"`algorithm.options.cov_low` {low:g} is above `algorithm.options.cov_high` {high:g}, so no token would be "
            "drawn. The defaults are 1 and 5."
        )
    if algorithm.kl_target is not None and algorithm.beta == 0:
        yield (
            f"`algorithm.kl_target` is {algorithm.kl_target:g}, but with `algorithm.beta` 0 there is no KL whose "
            "coefficient could follow it. Set the coefficient to begin with, such as `algorithm.beta=0.01`, or remove "
            "`kl_target`."
        )
    if algorithm.beta > 0 and algorithm.kl_in == "reward" and not ADVANTAGES[algorithm.advantage].kl_in_reward:
        yield (
            f"`algorithm.kl_in` is `reward`, but `algorithm.advantage={algorithm.advantage}` is of rewards alone: one "
            "that a KL was taken off has no meaning there. Set `algorithm.kl_in=loss`."
        )
    if algorithm.fixed_denominator is not None and algorithm.aggregation != "fixed":
        yield (
            f"`algorithm.fixed_denominator` is set, but `algorithm.aggregation` is `{algorithm.aggregation}` and does "
            "not use it. Set `algorithm.aggregation=fixed`, or remove the denominator."
        )


def _correction(rollout: RolloutSection, algorithm: AlgorithmSection) -> Iterator[str]:
    if rollout.lag and algorithm.correction == "none" and "old" not in algorithm.needs:
        yield (
            f"`rollout.lag` is {rollout.lag}, but `algorithm.type={algorithm.type}` has no ratio to the policy that "
            "sampled, so it would take its rollouts for the present policy's. Set `algorithm.correction=tis`, or "
            "`rollout.lag=0`."
        )
    cut = (rollout.top_p < 1 or rollout.top_k > 0) and not rollout.keep_sampling_mask
    wanted = rollout.lag or algorithm.correction != "none" or algorithm.off_policy_mask is not None
    if cut and is_corrected(rollout.engine) and wanted:
        yield (
            f"`rollout.engine` is `{rollout.engine}`, which does not say how likely a token was before `rollout.top_p` "
            f"or `rollout.top_k` cut the distribution, and {_wants_logprobs(rollout, algorithm)}. Sample from the full "
            "one (`rollout.top_p=1 rollout.top_k=0`), set `rollout.engine=auto`, or train without "
            "(`algorithm.correction=none rollout.lag=0`)."
        )
    elif rollout.lag and algorithm.correction != "none" and cut:
        yield (
            f"`algorithm.correction` is `{algorithm.correction}` and `rollout.lag` {rollout.lag}, but `rollout.top_p` "
            "or `rollout.top_k` cuts the distribution that an earlier policy is sampled from, for which its weights "
            "are wrong. Sample from the full one (`rollout.top_p=1 rollout.top_k=0`), or set "
            "`algorithm.correction=none`."
        )


def _wants_logprobs(rollout: RolloutSection, algorithm: AlgorithmSection) -> str:
    if algorithm.correction != "none":
        usual = f" (the default with this engine is `{DEFAULT_CORRECTION}`)"
        return f"`algorithm.correction={algorithm.correction}`{usual} needs that"
    if algorithm.off_policy_mask is not None:
        return f"`algorithm.off_policy_mask={algorithm.off_policy_mask:g}` needs that"
    return f"`rollout.lag={rollout.lag}` needs that"


def _evaluation(evaluation: EvaluationSection) -> Iterator[str]:
    if evaluation.every is not None and evaluation.problems == 0:
        yield (
            f"`evaluation.every` is {evaluation.every}, but `evaluation.problems` 0 turns evaluation off. Set "
            "`evaluation.problems=200`, or remove `every`."
        )
    if evaluation.every_problems is None:
        return
    if evaluation.every is None:
        yield "`evaluation.every_problems` has no effect without `evaluation.every`. Set both or neither."
    if evaluation.every_problems > evaluation.problems:
        yield (
            f"`evaluation.every_problems` {evaluation.every_problems} is above `evaluation.problems` "
            f"{evaluation.problems}, of which it takes the first. Use at most {evaluation.problems}."
        )
