"""Advantages by the definitions of the papers in exact fractions, apart from the code under test.

GAE (arXiv 1506.02438), equation 16, as the double sum that it is; VAPO (arXiv 2504.05118): the length of a completion
decides its lambda.
"""

from __future__ import annotations

from fractions import Fraction
from typing import NamedTuple


class Case(NamedTuple):
    """A completion: reward of each token, value before each, discount, lambda."""

    rewards: list[Fraction]
    values: list[Fraction]
    gamma: Fraction
    lambda_: Fraction


def of(text: str) -> list[Fraction]:
    """Numbers of a line."""
    return [Fraction(word) for word in text.split()]


CASES = [
    Case(of("0 0 1"), of("0.25 0.5 0.125"), Fraction(1), Fraction("0.95")),
    Case(of("0 0 0 0 2"), of("-1 0.5 3 0 0.75"), Fraction("0.9"), Fraction("0.5")),
    Case(of("-0.5 0.25 0 1"), of("0.3 0.3 -0.7 2"), Fraction("0.99"), Fraction(1)),
    Case(of("1"), of("0.4"), Fraction("0.7"), Fraction("0.2")),
    Case(of("0 1 0 1"), of("0.1 0.2 0.3 0.4"), Fraction("0.8"), Fraction(0)),
]


def advantages(case: Case) -> list[Fraction]:
    """A_t = sum over l of (gamma lambda)^l (r_(t+l) + gamma V_(t+l+1) - V_(t+l))."""
    size = len(case.rewards)
    values = [*case.values, Fraction(0)]
    errors = [case.rewards[t] + case.gamma * values[t + 1] - values[t] for t in range(size)]
    decay = case.gamma * case.lambda_
    return [sum((decay**step * errors[t + step] for step in range(size - t)), Fraction(0)) for t in range(size)]


def lambda_by_length(length: int, scale: Fraction) -> Fraction:
    """1 - 1 / (scale * length), at least 0."""
    return max(1 - 1 / (scale * length), Fraction(0))
