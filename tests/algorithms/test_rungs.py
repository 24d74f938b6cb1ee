"""Advantages and losses of the further methods against `papers.py`, and their expected gradients on a toy policy.

The toy policy has a vocabulary of 4 and completions of 3 tokens: all 64 are counted, so expectations are exact.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from itertools import product

import pytest
import torch
from torch import Tensor

from rethink.algorithms.advantages import Scored, batch_advantages, normalised, returns
from rethink.algorithms.aggregation import token_weights
from rethink.algorithms.kl import adapted_beta, kl_penalty
from rethink.algorithms.losses import Tokens, token_loss
from rethink.recipe.objective import objectives
from rethink.recipe.schema import AlgorithmSection
from rethink.recipe.terms import ADVANTAGES
from tests.algorithms import papers


def f64(values: object) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def made(kind: str, groups: list[list[float]], **options: float) -> list[list[float]]:
    rewards = f64(groups)
    return batch_advantages(Scored(rewards, ~rewards.isnan()), kind, options).tolist()


MIXED = [[1.0, 0.0, 0.25, 1.0, 3.0], [2.0, 2.0, 2.0, 2.0, 2.0], [0.0, 0.0, 0.0, 0.0, 1.0]]


@pytest.mark.parametrize("k", [1, 2, 3, 5])
def test_sets_of_k(k: int) -> None:
    for group in [*MIXED, [1.0, 0.0, 1.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0, 0.0]]:
        found = made("pass-at-k", [group], k=k)[0]
        assert found == pytest.approx(papers.pass_at_k_by_sets(group, k), abs=1e-12)
        if set(group) <= {0.0, 1.0}:
            assert found == pytest.approx(papers.pass_at_k(group, k), abs=1e-12)
        if k > 1:
            assert made("max-at-k", [group], k=k)[0] == pytest.approx(papers.max_at_k(group, k), abs=1e-12)


def test_advantages_over_groups_and_batch() -> None:
    assert made("none", MIXED) == MIXED
    assert made("gpg", MIXED) == [pytest.approx(group) for group in papers.gpg(MIXED)]
    assert made("gpg", MIXED[1:2]) == [[0.0] * 5]
    assert made("max-rl", MIXED) == [pytest.approx(papers.max_rl(group)) for group in MIXED]
    assert made("max-rl", [[0.0] * 5]) == [[0.0] * 5]
    with pytest.raises(ValueError, match="reward is negative"):
        made("max-rl", [[0.0, -1.0]])


def test_each_reward_function_by_itself() -> None:
    groups = [[[1.0, 0.0, 0.0], [0.2, 0.9, 0.4]], [[1.0, 1.0, 0.0], [0.5, 0.5, 0.5]]]
    scores = f64(groups).transpose(1, 2)
    rewards = torch.ones(2, 3, dtype=torch.float64)
    scored = Scored(rewards, rewards > 0, scores, f64([1.0, 0.5]))
    found = batch_advantages(scored, "gdpo", {})
    torch.testing.assert_close(found, f64(papers.gdpo(groups, [1.0, 0.5])), rtol=0, atol=2e-5)
    # Where a function gave no score, it has no part: as if it had no weight in that group.
    scores[1, :, 1] = torch.nan
    torch.testing.assert_close(batch_advantages(scored, "gdpo", {}), found, rtol=0, atol=1e-12)


def test_returns_are_normalised_over_all_tokens() -> None:
    rewards, kls = [1.0, -0.5, 2.0], [[0.1, -0.3], [0.2], [0.4, 0.0, 0.1]]
    rows = [returns(r, 0.7 * f64(kl)) for r, kl in zip(rewards, kls, strict=True)]
    assert [row.tolist() for row in normalised(rows, epsilon=0)] == [
        pytest.approx(row) for row in papers.reinforce_pp(rewards, kls, 0.7)
    ]
    assert [row.tolist() for row in normalised([f64([0.1, 0.1]), f64([0.1])])] == [[0.0, 0.0], [0.0]]
    assert normalised([]) == []


@pytest.mark.parametrize("kind", [kind for kind in ADVANTAGES if kind not in ("gdpo", "gae")])
def test_a_rollout_without_a_reward_takes_no_part(kind: str) -> None:
    options = {"k": 2.0}
    with_gap, without = f64([[1.0, torch.nan, 0.0, 0.5]]), f64([[1.0, 0.0, 0.5]])
    found = batch_advantages(Scored(with_gap, ~with_gap.isnan()), kind, options)
    alone = batch_advantages(Scored(without, ~without.isnan()), kind, options)
    assert found[0, 1] == 0
    assert torch.equal(found[:, [0, 2, 3]], alone)


def test_the_kl_coefficient_follows_its_target() -> None:
    for kl in (0.0, 2.9, 3.0, 3.3, 50.0):
        assert adapted_beta(0.2, kl, 3.0, 0.1) == pytest.approx(papers.controller(0.2, kl, 3.0), rel=1e-14)
    assert adapted_beta(0.2, 50.0, 3.0, 0.1) == pytest.approx(0.204)


# --- the toy policy -------------------------------------------------------------------------------------------------

SEQUENCES = list(product(range(4), repeat=3))
STARTS = {(): 0} | {
    prefix: 1 + n for n, prefix in enumerate((*product(range(4), repeat=1), *product(range(4), repeat=2)))
}
RIGHT = [sum(tokens) % 3 == 1 for tokens in SEQUENCES]
REWARDS = [(tokens[0] + 2 * tokens[1] * tokens[2]) / 10 for tokens in SEQUENCES]


def toy(seed: int) -> Tensor:
    """[contexts, V] logits."""
    return torch.randn(len(STARTS), 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def logprobs_of(logits: Tensor) -> Tensor:
    """[64, 3] of the tokens of all completions."""
    rows = [[STARTS[tokens[:t]] for t in range(3)] for tokens in SEQUENCES]
    return logits.log_softmax(1)[torch.tensor(rows), torch.tensor(SEQUENCES)]


def exact_gradient(logits: Tensor, rewards: list[float]) -> Tensor:
    logits = logits.detach().requires_grad_()
    value = (logprobs_of(logits).sum(1).exp() * f64(rewards)).sum()
    (gradient,) = torch.autograd.grad(value, logits)
    return gradient


def expected_advantages(logits: Tensor, rewards: list[float], kind: str) -> Tensor:
    """[64] expected advantage of a completion, times its probability, over all pairs that hold it."""
    chances, first = logprobs_of(logits).sum(1).exp(), torch.arange(64).repeat_interleave(64)
    second = torch.arange(64).repeat(64)
    pairs = torch.stack([f64(rewards)[first], f64(rewards)[second]], 1)
    found = batch_advantages(Scored(pairs, torch.ones_like(pairs, dtype=torch.bool)), kind, {})[:, 0]
    return torch.zeros(64, dtype=torch.float64).index_add(0, first, chances[first] * chances[second] * found)


def expected_step(logits: Tensor, settings: AlgorithmSection, advantages_64: Tensor) -> Tensor:
    """Expected gradient that the objective ascends: its loss is linear in the advantages where every ratio is 1."""
    logits = logits.detach().requires_grad_()
    logprobs = logprobs_of(logits)
    lengths = torch.full((64,), 3)
    weights = token_weights(
        lengths, settings.aggregation, total_completions=1000, total_tokens=3000, dtype=torch.float64,
        denominator=settings.fixed_denominator if settings.aggregation == "fixed" else None,
    )  # fmt: skip
    tokens = Tokens(
        logprobs.flatten(),
        logprobs.detach().flatten(),
        advantages_64.repeat_interleave(3),
        lengths_N=lengths if "sequence" in settings.needs else None,
    )
    (gradient,) = torch.autograd.grad((weights * 1000 * token_loss(tokens, settings).loss_T).sum(), logits)
    return -gradient


LENGTH_MEAN = 1 / 3
"""Of objectives that average over the tokens of a completion."""


@pytest.mark.parametrize(
    ("name", "kind", "share"),
    [
        ("reinforce", "none", 1.0),
        ("reinforce", "leave-one-out", 1.0),
        ("reinforce", "mean", 1 - 1 / 2),  # the mean holds the rollout itself
        ("rloo", "leave-one-out", 1.0),
        ("gpg", "mean", LENGTH_MEAN / 2),
        ("dr-grpo", "mean", 1 / 2),
        ("gmpo", "mean", LENGTH_MEAN / 2),
        ("sapo", "mean", LENGTH_MEAN / 2),
        ("cispo", "mean", LENGTH_MEAN / 2),
        ("gspo", "mean", LENGTH_MEAN / 2),
    ],
)
def test_expected_gradients_are_those_of_the_expected_reward(name: str, kind: str, share: float) -> None:
    """Of any rewards, in pairs: exact up to a known factor."""
    logits, fixed = toy(1), {"fixed_denominator": 1.0} if name == "dr-grpo" else {}
    settings = AlgorithmSection(type=name, **fixed)
    found = expected_step(logits, settings, expected_advantages(logits, REWARDS, kind))
    torch.testing.assert_close(found, share * exact_gradient(logits, REWARDS), rtol=0, atol=1e-13)


BIASED: Mapping[str, Callable[[papers.Numbers], papers.Numbers]] = {
    "std": papers.scaled,
    "mean": lambda rewards: [r - papers.mean(rewards) for r in rewards],
    "max-rl": papers.max_rl,
    "pass-at-k": lambda rewards: papers.pass_at_k(rewards, 2),
    "gpg": lambda rewards: papers.gpg([rewards])[0],
}
"""By design: they do not follow the gradient of the expected reward, but that of another function of the success rate.
GPG's scale is that of a batch of one group."""


@pytest.mark.parametrize("kind", BIASED)
def test_expected_gradients_of_biased_methods_are_their_own(kind: str) -> None:
    """Rewards of 0 and 1 in threes: the gradient of the success rate, times the sum over how many are right."""
    logits, rewards = toy(2), [float(right) for right in RIGHT]
    rate = float((logprobs_of(logits).sum(1).exp() * f64(rewards)).sum())
    factor = papers.success_weights(BIASED[kind], 3, rate)
    if kind == "max-rl":  # the paper's theorem, less the wrong groups that teach nothing: order G - 1
        assert factor == pytest.approx((1 - (1 - rate) ** 2) / rate)
    settings = AlgorithmSection(type="maxrl", advantage=kind, options={"k": 2} if "at-k" in kind else {})
    counts = of_binary(logits, kind, {"k": 2.0})
    found = expected_step(logits, settings, counts)
    torch.testing.assert_close(found, factor * exact_gradient(logits, rewards), rtol=0, atol=1e-6)


def of_binary(logits: Tensor, kind: str, options: dict[str, float]) -> Tensor:
    """[64] as `expected_advantages` in threes, where rewards are 0 and 1: only how many others are right counts."""
    chances = logprobs_of(logits).sum(1).exp()
    rate, out = float(chances[torch.tensor(RIGHT)].sum()), torch.zeros(64, dtype=torch.float64)
    for own, first, second in product((0.0, 1.0), repeat=3):
        chance = math.prod(rate if other else 1 - rate for other in (first, second))
        advantage = made(kind, [[own, first, second]], **options)[0][0]
        out += chance * advantage * chances * (torch.tensor(RIGHT) == bool(own))
    return out


def test_the_expected_gradient_of_the_best_of_k() -> None:
    """PKPO's is exact for any rewards: of the expected best of 2, from groups of 2 and of 3 counted over 4 rewards."""
    logits, rewards = toy(3), [float(tokens[0]) for tokens in SEQUENCES]
    chances = logprobs_of(logits).sum(1).exp()
    levels = torch.stack([chances[torch.tensor([r == level for r in rewards])].sum() for level in range(4)])
    for size in (2, 3):
        of_level = torch.zeros(4, dtype=torch.float64)
        for group in product(range(4), repeat=size):
            chance = levels[list(group[1:])].prod()
            of_level[group[0]] += chance * made("max-at-k", [[float(r) for r in group]], k=2)[0][0]
        found = expected_step(
            logits, AlgorithmSection(type="reinforce"), chances * of_level[torch.tensor(rewards).long()]
        )
        leaf = logits.clone().requires_grad_()
        first = logprobs_of(leaf).sum(1).exp()
        best = (first[:, None] * first * torch.maximum(f64(rewards)[:, None], f64(rewards))).sum()
        (exact,) = torch.autograd.grad(best, leaf)
        torch.testing.assert_close(found, exact, rtol=0, atol=1e-13)


@pytest.mark.parametrize("name", objectives())
def test_where_every_ratio_is_one_objectives_ascend_the_advantage(name: str) -> None:
    """Up to how tokens are averaged, all of them have the policy gradient in the first update of a batch."""
    logits, advantages = toy(4), torch.linspace(-1, 2, 64, dtype=torch.float64)
    aggregation = "token" if name == "trpo" else "sequence"  # the same here: all have three tokens
    found = expected_step(logits, AlgorithmSection(type=name, aggregation=aggregation), advantages)
    plain = expected_step(logits, AlgorithmSection(type="reinforce"), advantages)
    torch.testing.assert_close(3 * found, plain, rtol=0, atol=1e-12)


def test_the_unbiased_kl_has_the_gradient_of_the_kl_off_policy() -> None:
    """Tokens of another policy: the mean of k3 times the ratio is the KL of the present one, value and gradient."""
    logits, reference, sampled = (toy(seed)[0] for seed in (5, 6, 7))
    leaf = logits.clone().requires_grad_()
    new, ref, old = leaf.log_softmax(0), reference.log_softmax(0), sampled.log_softmax(0)
    value = (old.exp() * kl_penalty("unbiased-k3", new, ref, old)).sum()
    exact = (new.exp() * (new - ref)).sum()
    torch.testing.assert_close(value, exact)
    gradients = [torch.autograd.grad(one, leaf, retain_graph=True)[0] for one in (value, exact)]
    torch.testing.assert_close(*gradients, rtol=1e-12, atol=1e-13)


def test_far_completions_of_negative_advantage_are_masked() -> None:
    """DeepSeek-V3.2: mean log p_engine - log p above the bound; the KL stays."""
    new = f64([-2.0, -2.5, -1.0, -1.0, -2.0, -2.5]).requires_grad_()
    engine = f64([-1.0, -1.5, -0.9, -0.95, -1.0, -1.5])
    advantages = f64([-1.0, -1.0, -1.0, -1.0, 1.0, 1.0])
    tokens = Tokens(new, new.detach(), advantages, engine, new.detach() - 0.5, torch.tensor([2, 2, 2]))
    terms = token_loss(tokens, AlgorithmSection(off_policy_mask=0.1, beta=0.25, kl="k2"))
    plain = token_loss(tokens, AlgorithmSection(beta=0.25, kl="k2"))
    assert terms.masked_T is not None
    assert terms.masked_T.tolist() == [True, True, False, False, False, False]
    assert terms.loss_T[:2].tolist() == pytest.approx([0.25 * 0.125] * 2)
    assert terms.loss_T[2:].tolist() == plain.loss_T[2:].tolist()
    with pytest.raises(ValueError, match="engine's log-probabilities"):
        token_loss(Tokens(new, new, advantages, lengths_N=torch.tensor([6])), AlgorithmSection(off_policy_mask=0.1))
