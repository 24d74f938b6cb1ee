"""Choices of tokens, against numbers written out, and what a recipe may combine."""

from __future__ import annotations

import math

import pytest
import torch

from rethink.algorithms.losses import Tokens, token_loss
from rethink.algorithms.selection import choose, covariance, drawn, highest
from rethink.recipe.schema import AlgorithmSection
from tests.algorithms import papers
from tests.algorithms.test_objectives import f64, load, refused

LOGPROBS = [-0.1, -2.0, -0.4, -1.1, -0.2, -3.0, -0.9, -0.05]
ADVANTAGES = [1.5, 1.5, -0.5, -0.5, -0.5, 2.0, -1.0, 2.0]
ENTROPIES = [0.5, 0.1, 0.9, 0.9, 0.2, 0.8, 0.3, 0.7]


@pytest.mark.parametrize(("share", "kept"), [(0.01, {2, 3}), (0.25, {2, 3}), (0.3, {2, 3, 5}), (0.5, {2, 3, 5, 7})])
def test_tokens_of_the_highest_entropy(share: float, kept: set[int]) -> None:
    """Rounded up, and with all that are as high as the last one."""
    assert set(highest(f64(ENTROPIES), share).nonzero()[:, 0].tolist()) == kept
    assert highest(f64(ENTROPIES), 1.0).all()
    assert not len(highest(f64([]), share))


def test_covariances_are_those_of_the_paper() -> None:
    found = covariance(f64(LOGPROBS), f64(ADVANTAGES)).tolist()
    assert found == pytest.approx(papers.covariances(LOGPROBS, ADVANTAGES), abs=1e-15)
    assert papers.mean(found) == pytest.approx(
        papers.mean([x * y for x, y in zip(LOGPROBS, ADVANTAGES, strict=True)])
        - papers.mean(LOGPROBS) * papers.mean(ADVANTAGES)
    )


def test_clip_cov_draws_among_the_tokens_between_its_bounds() -> None:
    values = f64([0.5, 1.5, 2.0, 6.0, 3.0, 1.0])
    seen = {tuple(sorted(drawn(values, 1.0, 5.0, 2, seed).tolist())) for seed in range(40)}
    assert seen == {(1, 2), (1, 4), (2, 4)}
    assert drawn(values, 1.0, 5.0, 2, 3).tolist() == drawn(values, 1.0, 5.0, 2, 3).tolist()
    assert not len(drawn(values, 7.0, 9.0, 2, 0))


def test_what_is_chosen() -> None:
    given = (f64(LOGPROBS), f64(ENTROPIES), f64(ADVANTAGES), 5)
    wide = {"cov_low": -9.0, "cov_high": 0.0, "cov_share": 0.3}
    both = choose(AlgorithmSection(top_entropy=0.5, covariance="clip", options=wide), *given)
    below = [c < 0 for c in papers.covariances(LOGPROBS, ADVANTAGES)]
    gone = [place for place in (2, 3, 5, 7) if both.factor_T[place] == 0]
    assert all(below[place] for place in gone)
    alone = choose(AlgorithmSection(covariance="clip", options=wide), *given)
    assert int((alone.factor_T == 0).sum()) == 2
    assert torch.equal(both.factor_T, alone.factor_T * highest(f64(ENTROPIES), 0.5))
    held = choose(AlgorithmSection(covariance="kl", options={"cov_share": 0.3, "cov_weight": 0.5}), *given)
    order = sorted(range(8), key=lambda place: -papers.covariances(LOGPROBS, ADVANTAGES)[place])
    assert [place for place in range(8) if held.penalty_T[place]] == sorted(order[:2])
    assert set(held.penalty_T.tolist()) == {0.0, 0.5}
    nothing = choose(AlgorithmSection(covariance="kl"), *(f64([]) for _ in range(3)), 5)
    assert not len(nothing.factor_T)


def test_the_loss_of_chosen_tokens() -> None:
    new, old = f64([-0.5, -0.5, -2.0]).requires_grad_(), f64([-0.6, -0.4, -1.0])
    advantages, factor, penalty = f64([1.0, 1.0, -1.0]), f64([1.0, 0.0, 1.0]), f64([0.0, 0.0, 0.5])
    tokens = Tokens(new, old, advantages, factor_T=factor, penalty_T=penalty)
    loss = token_loss(tokens, AlgorithmSection(clip_low=None, clip_high=None)).loss_T
    assert loss.tolist() == pytest.approx([-math.exp(0.1), 0.0, math.exp(-1.0) + 0.5])
    (slopes,) = torch.autograd.grad(loss.sum(), new)
    assert slopes.tolist() == pytest.approx([-math.exp(0.1), 0.0, math.exp(-1.0) - 0.5])


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["algorithm.covariance=kl"], ["the distance from it is 0", "`algorithm.covariance=clip`"]),
        (["algorithm.type=gspo", "algorithm.top_entropy=0.2"], ["`algorithm.top_entropy=0.2` takes single tokens"]),
        (["algorithm.type=gmpo", "algorithm.covariance=clip"], ["has one ratio for a whole completion"]),
        (["algorithm.covariance=clip", "algorithm.options.cov_low=7"], ["7 is above `algorithm.options.cov_high` 5"]),
        (["algorithm.covariance=clip", "algorithm.options.cov_weight=7"], ["`cov_share`, `cov_low`, `cov_high`"]),
        (["algorithm.top_entropy=0"], ["`algorithm.top_entropy` is 0"]),
    ],
)
def test_what_makes_no_sense_is_refused(overrides: list[str], words: list[str]) -> None:
    message = refused(*overrides)
    assert all(word in message for word in words), message


def test_what_a_choice_needs() -> None:
    assert load("algorithm.top_entropy=0.2").algorithm.needs == {"old", "mini-batch"}
    assert load("algorithm.covariance=kl", "algorithm.epochs=2").algorithm.needs == {"old", "mini-batch"}
    assert load("algorithm.type=rloo", "algorithm.covariance=clip").algorithm.needs == {"mini-batch"}
