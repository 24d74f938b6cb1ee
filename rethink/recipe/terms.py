"""What any objective is combined with: advantages, choices of tokens, and the numbers that each has.

Data alone, so that a recipe is read without torch; `rethink/algorithms/` computes them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple


@dataclass(frozen=True, slots=True)
class Option:
    """A number that only some settings have, set by `algorithm.options`."""

    default: float
    meaning: str
    low: float = 0.0
    """Least value."""
    high: float | None = None
    """Largest value; None: no bound."""
    whole: bool = False
    """Whether it must be a whole number."""

    def allowed(self) -> str:
        """Its bounds, in words."""
        number = "a whole number" if self.whole else "a number"
        return f"{number} of at least {self.low:g}" + ("" if self.high is None else f" and at most {self.high:g}")

    def takes(self, value: float) -> bool:
        """Whether a value is allowed."""
        return (
            value >= self.low
            and (self.high is None or value <= self.high)
            and not (self.whole and not float(value).is_integer())
        )


@dataclass(frozen=True, slots=True)
class Advantage:
    """How rewards become advantages: the value of `algorithm.advantage`."""

    formula: str
    """Of a rollout with the reward r."""
    source: str
    least_group: int = 2
    """Least completions of a prompt that it can compare."""
    whole: bool = True
    """With `kl_in: reward`, whether the KL of all tokens is taken off the rollout's reward before it is compared. Else
    each token's advantage loses the KL from that token on, which is the return of a token."""
    normalised: bool = False
    """Whether advantages are then normalised over all tokens of the rollout batch."""
    outside: bool = False
    """Whether rewards are compared with a baseline that is not of the group (`kinds/grpo/baseline.py`)."""
    further_completions: int = 0
    """Of each prompt, sampled for the baseline and not trained on."""
    over_batch: bool = False
    """Whether it depends on the other groups of the rollout batch."""
    kl_in_reward: bool = True
    """Whether a reward that a KL was taken off has a meaning."""
    not_negative: bool = False
    """Whether rewards must be 0 or more."""
    by_part: bool = False
    """Whether it is made of the scores of the reward functions, not of their sum."""
    options: Mapping[str, Option] = field(default_factory=dict)


_K = "completions of a set whose best one counts; at most `rollout.group_size`"

ADVANTAGES: Mapping[str, Advantage] = {
    "std": Advantage(
        "(r - mean) / (std + 1e-6) of the group, std unbiased",
        "DeepSeekMath (arXiv 2402.03300), section 4.1.2; DeepSeek-R1 (2501.12948), equation 3",
    ),
    "mean": Advantage("r - mean of the group", "Dr. GRPO (arXiv 2503.20783)"),
    "leave-one-out": Advantage("r - mean of the group's others", "RLOO (arXiv 2402.14740), equation 6"),
    "none": Advantage(
        "r",
        "REINFORCE: Williams 1992, Simple Statistical Gradient-Following Algorithms",
        least_group=1,
        whole=False,
    ),
    "moving-average": Advantage(
        "r - mean of the mean rewards of all rollout batches before; 0 before the first",
        "moving average baseline of Ahmadian et al. (arXiv 2402.14740), over batches",
        least_group=1,
        whole=False,
        outside=True,
    ),
    "greedy": Advantage(
        "r - reward of the prompt's greedy completion, which is one more completion of each prompt",
        "ReMax (arXiv 2310.10505)",
        least_group=1,
        whole=False,
        outside=True,
        further_completions=1,
    ),
    "batch": Advantage(
        "(r - mean) / (std + 1e-6) over all tokens of the rollout batch",
        "REINFORCE++ (arXiv 2501.03262), equations 8 to 10",
        least_group=1,
        whole=False,
        normalised=True,
        over_batch=True,
    ),
    "mean-batch": Advantage(
        "r - mean of the group, then (A - mean) / (std + 1e-6) over all tokens of the rollout batch",
        "REINFORCE++ with baseline (arXiv 2501.03262)",
        normalised=True,
        over_batch=True,
    ),
    "gpg": Advantage(
        "(r - mean of the group) * groups / groups with signal",
        "GPG (arXiv 2504.02546)",
        over_batch=True,
    ),
    "max-rl": Advantage(
        "(r - mean) / mean of the group; 0 where the mean is 0",
        "MaxRL (arXiv 2602.02710)",
        kl_in_reward=False,
        not_negative=True,
    ),
    "gdpo": Advantage(
        "sum over the reward functions of weight * (score - mean) / (std + 1e-6) of the group, then "
        "(A - mean) / (std + 1e-6) over the rollout batch",
        "GDPO (arXiv 2601.05242)",
        over_batch=True,
        kl_in_reward=False,
        by_part=True,
    ),
    "pass-at-k": Advantage(
        "(mean of the best rewards of the sets of k that hold the rollout - mean over all sets) / std over all sets",
        "Pass@k Training (arXiv 2508.10751), its analytical form, which is for rewards of 0 and 1",
        kl_in_reward=False,
        options={"k": Option(4, _K, low=1, whole=True)},
    ),
    "max-at-k": Advantage(
        "k * mean, over the sets of k that hold the rollout, of (best reward - best reward without the rollout)",
        "PKPO (arXiv 2505.15201): the baseline of the others in the set",
        kl_in_reward=False,
        options={"k": Option(4, _K, low=2, whole=True)},
    ),
    "gae": Advantage(
        "of each token, against the values of a critic (below)",
        "GAE (arXiv 1506.02438), equation 16",
        least_group=1,
        whole=False,
    ),
}
"""By the value of `algorithm.advantage`. A rollout without a reward takes no part and has the advantage 0."""


class Covariance(NamedTuple):
    """A way to treat the tokens that drive the entropy down: the value of `algorithm.covariance`."""

    meaning: str
    source: str
    options: Mapping[str, Option]


_COV_SHARE = Option(2e-4, "share of the mini-batch's tokens that are treated, at least one token", high=1)

COVARIANCES: Mapping[str, Covariance] = {
    "clip": Covariance(
        "tokens whose covariance is between the bounds, drawn at random up to the share, have no policy loss",
        "Clip-Cov (arXiv 2505.22617)",
        {
            "cov_share": _COV_SHARE,
            "cov_low": Option(1.0, "tokens of a lower covariance are not drawn", low=-1e9),
            "cov_high": Option(5.0, "tokens of a higher covariance are not drawn", low=-1e9),
        },
    ),
    "kl": Covariance(
        "the share of the highest covariance gets `cov_weight` times |log p - log p_old| added to its loss",
        "KL-Cov (arXiv 2505.22617), with the estimate of the KL that its authors' code has",
        {
            "cov_share": _COV_SHARE,
            "cov_weight": Option(1.0, "weight of the distance from the policy that sampled"),
        },
    ),
}
"""A token's covariance is (log p - mean) * (A - mean) over the mini-batch."""

CONTROLLER: Mapping[str, Option] = {
    "kl_rate": Option(0.1, "how fast `beta` follows `kl_target`: K_beta of Ziegler et al. (arXiv 1909.08593)", high=5)
}
"""Numbers of the controller that `algorithm.kl_target` switches on."""
