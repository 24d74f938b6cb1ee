"""Losses of reward models, and what the objectives in `preferences/` share: pairs of answers, and single answers with a
label.

Axes: B examples of a batch, A their answers: of pairs the chosen one, then the rejected one, example after example.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from rethink.algorithms.precision import at_least_fp32


def bradley_terry_loss(chosen_B: Tensor, rejected_B: Tensor) -> Tensor:
    """-log sigmoid(r_chosen - r_rejected) for each pair.

    The negative log-likelihood of the model of Bradley and Terry (Biometrika 39, 1952), by which the probability that
    the first of two responses is preferred is the sigmoid of the difference of their scores; as a loss for reward
    models: Ouyang et al. (arXiv 2203.02155) equation 1, with one pair a prompt. DeepSeek-R1 (2501.12948) trains its
    helpfulness model with a pairwise loss.

    Args:
        chosen_B: [B] scores of the preferred responses, differentiable.
        rejected_B: [B] scores of the others, differentiable.

    Returns:
        [B] losses (nats), in fp32 or better; finite for every finite score.
    """
    return -F.logsigmoid(at_least_fp32(chosen_B) - at_least_fp32(rejected_B))


def pointwise_loss(scores_B: Tensor, labels_B: Tensor) -> Tensor:
    """Binary cross-entropy of sigmoid(score) with a label for each response.

    What DeepSeek-R1 (arXiv 2501.12948) trains its harmlessness model with: a pointwise loss on responses labelled safe
    or unsafe.

    Args:
        scores_B: [B] scores, differentiable: log-odds of the label 1.
        labels_B: [B] labels, 0 or 1.

    Returns:
        [B] losses (nats), in fp32 or better; finite for every finite score.
    """
    scores = at_least_fp32(scores_B)
    return F.binary_cross_entropy_with_logits(scores, labels_B.to(scores.dtype), reduction="none")


@dataclass(frozen=True, slots=True)
class Answers:
    """What is known of the answers at hand: all of some examples."""

    logprobs_A: Tensor
    """[A] log-probability of each answer under the policy, the sum over its tokens, differentiable."""
    lengths_A: Tensor
    """[A] tokens of each answer, at least 1."""
    reference_logprobs_A: Tensor | None = None
    """[A] as `logprobs_A`, under the reference model; None: not needed."""
    labels_B: Tensor | None = None
    """[B] bool: whether an answer is a good one; None: the answers are pairs."""
    kl: float = 0.0
    """Estimate of KL(policy || reference) of an answer (nats), at least 0, where it is needed."""

    @property
    def means_A(self) -> Tensor:
        """[A] mean log-probability of an answer's tokens."""
        return at_least_fp32(self.logprobs_A) / self.lengths_A

    @property
    def log_ratios_A(self) -> Tensor:
        """[A] log of policy over reference.

        Raises:
            ValueError: there are no log-probabilities of a reference model.
        """
        if self.reference_logprobs_A is None:
            raise ValueError("the reference was not asked for: the objective's `needs` must name `reference`")
        return at_least_fp32(self.logprobs_A) - at_least_fp32(self.reference_logprobs_A)

    @property
    def labels(self) -> Tensor:
        """`labels_B`.

        Raises:
            ValueError: the answers are pairs.
        """
        if self.labels_B is None:
            raise ValueError("the answers are pairs: the objective's `paired` must be False")
        return self.labels_B


@dataclass(frozen=True, slots=True)
class PreferenceTerms:
    """A loss of preferences and what metrics need of it."""

    loss_B: Tensor
    """[B] loss, differentiable in the policy's log-probabilities."""
    rewards_A: Tensor
    """[A] implicit reward of each answer, which the loss compares; detached."""
    margins_B: Tensor
    """[B] by how much the right side is ahead: chosen less rejected; or, with the label's sign, reward less what the
    loss compares it with. Detached."""


def chosen_and_rejected(values_A: Tensor) -> tuple[Tensor, Tensor]:
    """([B] of the chosen answers, [B] of the rejected ones) of pairs."""
    return values_A[0::2], values_A[1::2]


def pair_terms(loss_B: Tensor, rewards_A: Tensor) -> PreferenceTerms:
    """The terms of a loss of pairs from the rewards that it compares."""
    rewards = rewards_A.detach()
    chosen_B, rejected_B = chosen_and_rejected(rewards)
    return PreferenceTerms(loss_B, rewards, chosen_B - rejected_B)
