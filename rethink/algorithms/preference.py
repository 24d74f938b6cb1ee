"""Losses of reward models: pairs of responses, and single responses with a label.

Axes: B examples of a batch.
"""

from __future__ import annotations

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
