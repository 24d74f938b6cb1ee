"""docs/algorithms.md, written from the registry: `python -m rethink.algorithms.page > docs/algorithms.md`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rethink.recipe.objective import CORRECTIONS, KL_ESTIMATORS, NEEDS, Fixed, Needed, Objective, objectives
from rethink.recipe.preference import PREFERENCE_NEEDS, PreferenceObjective, PreferenceSection, preference_objectives
from rethink.recipe.schema import AlgorithmSection, Section
from rethink.recipe.terms import ADVANTAGES, CONTROLLER, COVARIANCES, Option
from rethink.terminal import say

AnyObjective = Objective | PreferenceObjective

_HEAD = """\
# Algorithms

<!-- Written by `python -m rethink.algorithms.page > docs/algorithms.md` from the records in
rethink/algorithms/objectives/, rethink/algorithms/preferences/ and rethink/recipe/objective.py: change them. -->

`algorithm.type` chooses the objective of a run of the kind `grpo`. Its defaults are its paper's; any other field of
`algorithm` may still be set, and what the recipe sets wins. `rethink train RECIPE --dry-run` shows what results. A
field that makes no sense with an objective is refused. `rethink algorithms` prints this table, `rethink algorithms
gspo` one objective.

```
rethink train quickstart algorithm.type=dapo
rethink train quickstart algorithm.type=gspo algorithm.mini_batches=4
rethink train quickstart algorithm.beta=0.01 algorithm.kl=k2
rethink train quickstart algorithm.type=reinforce++ algorithm.beta=0.01 algorithm.kl_target=3
rethink train quickstart algorithm.type=pass-at-k algorithm.options.k=2
rethink train my.yaml algorithm.correction=tis algorithm.correction_cap=3
```

The loss of a mini-batch is the sum over its tokens of

    aggregation weight x (choice x mask x correction x policy loss + beta x KL + penalty - entropy_bonus x H)

where the policy loss is the objective's, below. `A` is the advantage (`algorithm.advantage`), `p` the policy's
probability of a token at the sampling temperature, `p_old` that of the policy that sampled, and `sg` stops the
gradient. In a batch's first update `p_old` is `p` itself, so every ratio is 1. `H` is the entropy of the token's whole
distribution (`algorithm.entropy_bonus`), whose gradient is exact and costs no pass.
"""

_OWN = """
## Custom objectives

An objective is one module with a record and a pure function of tensors; `rethink/algorithms/objectives/` has examples.
Put it there, or into your own package that names it as an entry point:

```python
from rethink.recipe.objective import Objective, Option


def loss(tokens, settings):
    from rethink.algorithms.losses import clip_ratio

    ratio_T = (tokens.logprobs_T - tokens.old_logprobs_T).exp()
    return clip_ratio(ratio_T, settings.options["scale"] * tokens.advantages_T, settings.clip_low, settings.clip_high)


OBJECTIVE = Objective(
    name="mine",
    summary="…",
    source="…",
    equation="…",
    loss=loss,
    needs={"old"},
    options={"scale": Option(1.0, "factor of the advantages")},
)
```

```toml
[project.entry-points."rethink.objectives"]
mine = "my_package.mine:OBJECTIVE"
```

`rethink train RECIPE algorithm.type=mine algorithm.options.scale=2` then trains with it. `tokens` is a
`rethink.algorithms.losses.Tokens`. An update computes what `needs` names and nothing else. With `sequence` the function
is given whole completions, so it may sum over them; otherwise a part may be cut anywhere.
"""

_PREFERENCES = """\
# Preferences

`algorithm.type` of a run of the kind `preference` ([preferences.md](preferences.md)) is one of these objectives. It
learns from pairs of answers, or from answers with a label, and samples nothing. The loss of a step is the mean over its
examples. `c` is the chosen answer of a pair, `r` the rejected one, `|c|` its number of tokens, and `p(c)` its
probability, the product over its tokens; `p_ref` is that of the reference model.

```
rethink train dpo data.0.path=my.jsonl
rethink train dpo data.0.path=my.jsonl algorithm.type=simpo algorithm.options.gamma=0.5
```

A custom objective is one module, as above, in `rethink/algorithms/preferences/` or named as an entry point of the group
`rethink.preferences`: a record `PREFERENCE_OBJECTIVE` (`rethink/recipe/preference.py`) and its loss, a function of
`rethink.algorithms.preference.Answers`.
"""


def page() -> str:
    """The whole page, Markdown."""
    lines = [_HEAD, *_table("equation (loss of a token)", objectives(), NEEDS)]
    lines += ["", *_advantages(), "", *_choices(), "", *_critic(), "", *_kl(), "", *_corrections(), _OWN, _PREFERENCES]
    lines += _table("equation (loss of an example)", preference_objectives(), PREFERENCE_NEEDS)
    return "\n".join(lines)


def _table(equation: str, known: Mapping[str, AnyObjective], needs: Mapping[Any, Needed]) -> Iterator[str]:
    """Objectives in a table, what they need in another, and a section of each."""
    yield from (f"| type | what is its own | {equation} | source | needs |", "|---|---|---|---|---|")
    for o in known.values():
        names = ", ".join(f"`{need}`" for need in needed(o)) or "nothing more"
        yield _row(f"`{o.name}`", o.summary, f"`{o.equation}`", o.source, names)
    yield from ("", "What is needed, and what it costs:", "", "| need | what it is | extra cost |", "|---|---|---|")
    yield from (_row(f"`{name}`", need.what, need.cost) for name, need in needs.items())
    for objective in known.values():
        yield from ("", f"## `{objective.name}`", "", *_of_one(objective))


def needed(objective: AnyObjective) -> dict[str, Needed]:
    """What an objective needs, by name."""
    known: Mapping[Any, Needed] = NEEDS if isinstance(objective, Objective) else PREFERENCE_NEEDS
    return {name: need for name, need in known.items() if name in objective.needs}


def fixed(objective: AnyObjective) -> Mapping[str, Fixed]:
    """Fields of `algorithm` that cannot be set otherwise with an objective."""
    return objective.fixed if isinstance(objective, Objective) else {}


def options(objective: AnyObjective) -> Mapping[str, Option]:
    """Numbers that an objective has where nothing else is chosen."""
    return objective.usual_options if isinstance(objective, Objective) else objective.options


def defaults(objective: AnyObjective) -> dict[str, object]:
    """Fields of `algorithm` that have another value with the objective than with GRPO, or than with DPO."""
    section: type[Section] = AlgorithmSection if isinstance(objective, Objective) else PreferenceSection
    own = {**objective.defaults, **{name: only.value for name, only in fixed(objective).items()}}
    return {name: value for name, value in own.items() if value != section.model_fields[name].default}


def shown(value: object) -> str:
    """A value as a recipe would have it."""
    return "null" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _of_one(objective: AnyObjective) -> Iterator[str]:
    yield f"{objective.summary[0].upper()}{objective.summary[1:]}. {objective.source}."
    yield ""
    yield f"    loss = {objective.equation}"
    own = defaults(objective)
    if own:
        yield ""
        yield f"Its defaults: {', '.join(f'`{name}: {shown(value)}`' for name, value in own.items())}."
    if only := fixed(objective):
        yield ""
        yield from (f"- `{name}` cannot be set (`{shown(one.value)}`): {one.why}." for name, one in only.items())
    if isinstance(objective, Objective) and objective.critic:
        yield ""
        own_critic = [f"`critic.{name}: {shown(value)}`" for name, value in objective.critic.items()]
        yield f"Of its critic: {', '.join(own_critic)}."
    if own_options := options(objective):
        yield ""
        yield from _options(own_options)
    if objective.notes:
        yield ""
        yield objective.notes


def _critic() -> Iterator[str]:
    yield from ("## The critic", "")
    yield (
        "`ppo`, `actor-critic`, `vapo`, and any type with `algorithm.advantage=gae`, take the advantage of each token "
        "against a critic: a second decoder with a value head, which the section `critic` describes. `critic: {}` is "
        "enough: it begins as the policy with a head of zeros; `critic.model` names a reward model or another model "
        "with the policy's tokenizer. It judges a rollout batch before anything is updated, and all updates on the "
        "batch use that:"
    )
    yield from (
        "",
        "    d_t = r_t + gamma V_(t+1) - V_t                        V is 0 behind the last token",
        "    A_t = sum over l of (gamma lambda)^l d_(t+l)           GAE (arXiv 1506.02438), equation 16",
        "    R_t = V_t + the same sum with value_lambda             what the critic learns",
        "    value loss = max((V - R)^2, (V_old + clamp(V - V_old, -value_clip, value_clip) - R)^2) / 2",
        "",
    )
    yield (
        "The reward is that of the last token, also where a completion was cut off; with `algorithm.kl_in=reward` each "
        "token's loses `beta` times its KL. Advantages are whitened over all "
        "tokens of the rollout batch (`critic.whiten`), not over a mini-batch. A rollout without a reward has the "
        "advantage 0 and teaches the critic nothing. Tokens that the policy did not sample are left out of the sums. "
        "With `critic.gae_lambda=1` an advantage is the reward less the value, and with a critic of zeros PPO's first "
        "update is REINFORCE's."
    )
    yield from (
        "",
        "All updates of the critic on a batch are made before the policy's first: they share no weights, so the order "
        "decides nothing. The critic has a learning rate of its own, `critic.epochs` and `critic.mini_batches`; "
        "`critic.warmup_steps` trains it alone first, while the policy stays as it is. It takes 16 bytes a parameter, "
        "one forward pass over each batch and a training pass an epoch (`--dry-run` counts them). Trainer ranks share "
        "the policy's work; the critic's is the first one's, and ranks that shard weights refuse it. The `model/` of a "
        "finished run is the policy; the critic stays in the checkpoints. A value head on the policy's own layers is "
        "not there.",
    )


def _options(options: Mapping[str, Option]) -> Iterator[str]:
    for name, option in options.items():
        yield f"- `options.{name}`: {option.meaning}; {option.allowed()}, default {option.default:g}."


def _advantages() -> Iterator[str]:
    yield from ("## Advantages", "")
    yield (
        "`algorithm.advantage` says how rewards become advantages; each objective has its paper's, and any may be "
        "combined with any. `r` is a rollout's reward. A rollout without a reward has the advantage 0. Those with a "
        "least group of 1 also train with `rollout.group_size=1`."
    )
    yield from ("", "| advantage | formula | source | least group | options |", "|---|---|---|---|---|")
    for name, kind in ADVANTAGES.items():
        options = ", ".join(f"`{option}` ({known.default:g})" for option, known in kind.options.items())
        yield _row(f"`{name}`", kind.formula, kind.source, str(kind.least_group), options)
    yield ""
    yield from _options({name: option for kind in ADVANTAGES.values() for name, option in kind.options.items()})


def _choices() -> Iterator[str]:
    yield from ("## Choices of tokens", "")
    yield (
        "What all tokens of a mini-batch decide together is computed before any gradient, in a pass of its own "
        f"({NEEDS['mini-batch'].cost}), so that micro-batches and ranks change nothing. Groups that are left out for "
        "want of advantages have no part in it, and a token that is dropped still counts in the aggregation's "
        "denominators."
    )
    yield ""
    yield (
        "`algorithm.top_entropy` trains only the share of tokens that the policy is least sure of (Wang et al., arXiv "
        "2506.01939: 0.2, with `dapo`). `algorithm.covariance` treats the tokens of high covariance, (log p - mean) * "
        "(A - mean) over the mini-batch:"
    )
    yield from ("", "| covariance | what it does | source |", "|---|---|---|")
    for name, way in COVARIANCES.items():
        yield _row(f"`{name}`", way.meaning, way.source)
    yield ""
    yield from _options({name: option for way in COVARIANCES.values() for name, option in way.options.items()})
    yield ""
    yield "KL-Cov's authors clip no ratio beside it: `algorithm.clip_low=null algorithm.clip_high=null`."


def _kl() -> Iterator[str]:
    yield from ("## KL to the reference model", "")
    yield (
        "`algorithm.beta` above 0 adds `beta` times an estimate of the KL of each token, `algorithm.kl`. The gradients "
        "are estimates for tokens that the policy itself sampled; in later updates of a batch no ratio makes up for "
        "the difference."
    )
    yield from ("", "| kl | value | gradient | what it estimates |", "|---|---|---|---|")
    for name, (value, gradient, meaning) in KL_ESTIMATORS.items():
        yield _row(f"`{name}`", f"`{value}`", f"`{gradient}`", meaning)

    of_rollouts = ", ".join(f"`{name}`" for name, kind in ADVANTAGES.items() if kind.whole and kind.kl_in_reward)
    yield ""
    yield (
        "With `algorithm.kl_in=reward` the KL is no term of the loss. `beta` times log p - log p_ref of each token, "
        "before the first update on the batch, is taken off the reward, and the gradient is that of a reward: no "
        f"estimator is chosen. With the advantages {of_rollouts} the KL of all tokens is taken off the rollout's "
        "reward before it is compared; with `gae` each token's reward loses its own; with the others each token's "
        "advantage loses the KL from that token on."
    )
    yield ""
    yield (
        "With `algorithm.kl_target` the coefficient follows the measured KL (nats a completion): after each rollout "
        "batch `beta = beta * (1 + kl_rate * clip(KL / kl_target - 1, -0.2, 0.2))` (Ziegler et al., arXiv 1909.08593, "
        "section 2.2). The recipe's `beta` is the first one; the present one is in the checkpoint, and in the metric "
        "`policy/beta`. In the loss the KL is that of the batch's last update, in the reward that of the batch."
    )
    yield ""
    yield from _options(CONTROLLER)


def _corrections() -> Iterator[str]:
    yield from ("## Corrections between engine and trainer", "")
    yield (
        "`algorithm.correction` multiplies the policy loss by a weight made of `w = p_trainer / p_engine`: of the "
        "policy before the first update on the batch, as the trainer computes it, and of the policy that sampled, as "
        "the engine did. It is applied outside the clip, has no gradient, and does not touch the KL. "
        "Tokens that are dropped still count in the aggregation's denominators. With the engine of Rethink, whose "
        "log-probabilities are the trainer's to the bit where kernels allow it, all weights are 1: corrections "
        "are for engines whose numbers differ (`policy/mismatch`). With the engine `vllm` the default is `tis`; with "
        "any other it is `none`. Both sides are the full distribution's, before "
        "top-p and top-k, so a correction does not make up for `rollout.allow_truncated`; with "
        "`rollout.keep_sampling_mask` both are the truncated one's. A correction by "
        "completion costs a second pass of the head."
    )
    yield from ("", "| correction | weight | default cap | default floor | source |", "|---|---|---|---|---|")
    yield _row("`none`", "1", "", "", "")
    for name, found in CORRECTIONS.items():
        floor = "" if found.floor is None else f"{found.floor:g}"
        yield _row(f"`{name}`", found.weight, f"{found.cap:g}", floor, found.source)
    yield ""
    yield (
        "`algorithm.off_policy_mask` drops whole completions instead: those of negative advantage whose tokens have "
        "become less likely than when they were sampled, by more than so many nats a token on average (DeepSeek-V3.2, "
        "arXiv 2512.02556, section 3.1, which prints no value). It reads the engine's own log-probabilities, so it "
        "counts both what the policy has learnt since and an engine whose numbers differ."
    )
    yield from ("", "## Sampling by an earlier policy", "")
    yield (
        "With `rollout.lag` three policies are kept apart: the one that sampled (behaviour), the one before the first "
        "update on the batch (proximal), and the current one. With `correction: none`, the default, the ratio is p / "
        "p_behaviour: it is itself the weight that makes up for the lag, and the clip bounds it. With a correction the "
        "ratio is p / p_proximal, and the correction's weight is made of `w = p_proximal / p_behaviour`, outside the "
        "clip (decoupled PPO: Hilton et al. 2022, arXiv 2110.00641; AReaL, arXiv 2505.24298). So nothing needs to be "
        "set for `grpo`, `dr-grpo`, `dapo` and `cispo`; an objective without a ratio (`rloo`) is refused without a "
        "correction; and `gspo`, whose bounds are 3e-4 wide, clips nearly all completions of an earlier policy unless "
        "it has one (`sequence-tis`)."
    )


def _row(*cells: str) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


if __name__ == "__main__":
    say(page())
