"""Generalised advantage estimation, and what a critic learns: advantages and returns of tokens, loss of its values.

A token is an action, and what stands before it (the prompt and the completion's earlier tokens) the state. Behind a
completion's last token nothing follows, whether it ended by itself or was cut off: its reward is the last token's.

Axes: T tokens of a batch, packed, completion after completion; N completions.
"""

from __future__ import annotations

import torch
from torch import Tensor

WHITEN_EPSILON = 1e-8
"""Added to the standard deviation, against the division by 0 of a batch whose advantages are all equal."""


def gae(rewards_T: Tensor, values_T: Tensor, lengths_N: Tensor, gamma: float, lambda_N: Tensor) -> Tensor:
    """[T] advantages, fp64: generalised advantage estimation (arXiv 1506.02438) equation 16.

    A_t = sum over l of (gamma lambda)^l d_(t+l), d_t = r_t + gamma V_(t+1) - V_t, and V is 0 behind the last token.
    With gamma = lambda = 1 it is the sum of the rewards from t on, less V_t.

    Args:
        rewards_T: [T] reward of each token.
        values_T: [T] the critic's estimate of the return from each token on, made before the token is known.
        lengths_N: [N] tokens of each completion, which sum to T.
        gamma: discount of the next token's value.
        lambda_N: [N] of each completion, 0 to 1: 0 trusts the critic's next value, 1 what was earned.
    """
    lengths = lengths_N.tolist()
    width, sizes = max(lengths, default=0), torch.tensor(lengths)
    there_NW = torch.arange(width) < sizes[:, None]
    rewards_NW, values_NW = (
        torch.zeros(there_NW.shape, dtype=torch.float64).masked_scatter(there_NW, given.detach().double().cpu())
        for given in (rewards_T, values_T)
    )
    following_NW = torch.nn.functional.pad(values_NW[:, 1:], (0, 1))
    errors_NW = rewards_NW + gamma * following_NW - values_NW
    decay_N, sum_N = gamma * lambda_N.double().cpu(), torch.zeros(len(lengths), dtype=torch.float64)
    advantages_NW = torch.empty_like(errors_NW)
    for place in range(width - 1, -1, -1):  # behind its end a row is 0 throughout
        sum_N = errors_NW[:, place] + decay_N * sum_N
        advantages_NW[:, place] = sum_N
    return advantages_NW[there_NW]


def adaptive_lambda(lengths_N: Tensor, scale: float) -> Tensor:
    """[N] 1 - 1 / (scale * length), at least 0: VAPO (arXiv 2504.05118) section 4.2, so that the weights of a
    completion's errors add up to `scale` times its length, whatever that is.
    """
    return (1 - 1 / (scale * lengths_N.double().clamp(min=1))).clamp(min=0)


def whitened(advantages_T: Tensor) -> Tensor:
    """[T] the advantages with mean 0 and standard deviation 1 over all of them, of all completions together."""
    if not len(advantages_T):
        return advantages_T
    centred = advantages_T - advantages_T.mean()
    return centred / (centred.square().mean().sqrt() + WHITEN_EPSILON)


def value_loss(values_T: Tensor, old_values_T: Tensor, returns_T: Tensor, clip: float | None) -> tuple[Tensor, Tensor]:
    """Half the squared error of each value, and whether the clip holds it.

    With a clip, the larger of the errors of V and of V_old + clamp(V - V_old, -clip, clip): as PPO's own
    implementation has it (OpenAI baselines, ppo2), beside the paper's plain squared error (arXiv 1707.06347,
    equation 9). A value that has moved further than the clip, towards its return, has no gradient.

    Args:
        values_T: [T] by the critic as it is, differentiable.
        old_values_T: [T] before the first update on the batch.
        returns_T: [T] what is to be learnt.
        clip: bound of the change; None: none.

    Returns:
        ([T] losses, [T] bool).
    """
    plain_T = (values_T - returns_T).square() / 2
    if clip is None:
        return plain_T, torch.zeros_like(plain_T, dtype=torch.bool)
    held_T = (old_values_T + (values_T - old_values_T).clamp(-clip, clip) - returns_T).square() / 2
    return torch.maximum(plain_T, held_T), held_T > plain_T


def explained_variance(values_T: Tensor, returns_T: Tensor) -> float:
    """1 - var(returns - values) / var(returns): 1 for values that know the returns, 0 for their mean; NaN where the
    returns are all equal.
    """
    returns, errors = returns_T.double(), returns_T.double() - values_T.double()
    variance = float(returns.var(correction=0))
    return 1 - float(errors.var(correction=0)) / variance if variance > 0 else float("nan")
