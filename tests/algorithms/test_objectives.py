"""Every objective, correction and KL against formulas written out here in plain numbers; and what a recipe may set."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from rethink.algorithms.losses import Tokens, token_loss
from rethink.algorithms.page import page
from rethink.errors import RecipeError
from rethink.kinds.grpo.recipe import Recipe
from rethink.recipe.objective import CORRECTIONS, KL_ESTIMATORS, NEEDS, objectives
from rethink.recipe.recipe_files import parse_recipe, recipe_to_yaml
from rethink.recipe.schema import AlgorithmSection
from tests.algorithms import papers
from tests.paths import ROOT

LENGTHS = (1, 4, 3)
NEW = [-0.3, -1.2, -0.05, -2.6, -0.9, -1.5, -0.2, -3.1]
OLD = [-0.9, -1.0, -0.40, -2.0, -1.0, -1.1, -0.9, -1.6]
ENGINE = [-1.2, -1.9, -0.45, -1.9, -1.0, -0.2, -0.7, -1.7]
REFERENCE = [-0.7, -1.1, -0.90, -2.5, -0.8, -1.9, -0.1, -2.2]
ADVANTAGES = [1.5, -0.8, -0.8, -0.8, -0.8, 0.6, 0.6, 0.6]
TEXT = "name: t\nsteps: 4\ntasks: [{kind: reasoning-gym, name: chain_sum}]\n"


def f64(values: list[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def computed(settings: AlgorithmSection) -> tuple[list[float], list[float]]:
    """(loss of each token, d sum of the losses / d log p of each token), by our functions."""
    logprobs = f64(NEW).requires_grad_()
    lengths = torch.tensor(LENGTHS) if "sequence" in settings.needs else None
    tokens = Tokens(logprobs, f64(OLD), f64(ADVANTAGES), f64(ENGINE), f64(REFERENCE), lengths)
    loss = token_loss(tokens, settings).loss_T
    (gradient,) = torch.autograd.grad(loss.sum(), logprobs)
    return loss.tolist(), gradient.tolist()


def owner(t: int) -> range:
    """The tokens of the completion that token t belongs to."""
    first = 0
    for length in LENGTHS:
        if t < first + length:
            return range(first, first + length)
        first += length
    raise AssertionError


def least(ratio: float, advantage: float, low: float, high: float) -> tuple[float, float]:
    """The clipped gain as the papers write it, and whether it moves with the ratio."""
    bounded = min(max(ratio, 1 - low), 1 + high)
    return min(ratio * advantage, bounded * advantage), float(ratio * advantage <= bounded * advantage)


def by_token(low: float, high: float) -> tuple[list[float], list[float]]:
    values, slopes = [], []
    for t, advantage in enumerate(ADVANTAGES):
        ratio = math.exp(NEW[t] - OLD[t])
        gain, moves = least(ratio, advantage, low, high)
        values.append(-gain)
        slopes.append(-moves * ratio * advantage)
    return values, slopes


def by_completion() -> tuple[list[float], list[float]]:
    values, slopes = [], []
    for t, advantage in enumerate(ADVANTAGES):
        tokens = owner(t)
        ratio = math.exp(sum(NEW[i] - OLD[i] for i in tokens) / len(tokens))
        gain, moves = least(ratio, advantage, 3e-4, 4e-4)
        values.append(-gain)
        # Each of the completion's equal losses holds log p of this token, 1 / length of it: together once.
        slopes.append(-moves * ratio * advantage)
    return values, slopes


def weighed(bound: float) -> tuple[list[float], list[float]]:
    weights = [min(math.exp(n - o), bound) for n, o in zip(NEW, OLD, strict=True)]
    values = [-w * a * n for w, a, n in zip(weights, ADVANTAGES, NEW, strict=True)]
    return values, [-w * a for w, a in zip(weights, ADVANTAGES, strict=True)]


def reinforce() -> tuple[list[float], list[float]]:
    return [-a * n for a, n in zip(ADVANTAGES, NEW, strict=True)], [-a for a in ADVANTAGES]


def by_gate() -> tuple[list[float], list[float]]:
    found = [papers.sapo(math.exp(n - o), a) for n, o, a in zip(NEW, OLD, ADVANTAGES, strict=True)]
    return [loss for loss, _ in found], [slope for _, slope in found]


def by_geometric_mean() -> tuple[list[float], list[float]]:
    """Advantages of a completion are equal here; each of its equal losses holds every token."""
    values, slopes, first = [], [], 0
    for length in LENGTHS:
        places = range(first, first + length)
        loss, each = papers.gmpo([NEW[t] - OLD[t] for t in places], ADVANTAGES[first])
        values += [loss] * length
        slopes += [length * slope for slope in each]
        first += length
    return values, slopes


GOLDEN: dict[str, Callable[[], tuple[list[float], list[float]]]] = {
    "grpo": lambda: by_token(0.2, 0.2),
    "dr-grpo": lambda: by_token(0.2, 0.2),
    "dapo": lambda: by_token(0.2, 0.28),
    "rloo": reinforce,
    "cispo": lambda: weighed(5.0),
    "gspo": by_completion,
    "ppo": lambda: by_token(0.2, 0.2),
    "vapo": lambda: by_token(0.2, 0.28),
    "actor-critic": reinforce,
    "reinforce": reinforce,
    "gpg": reinforce,
    "reinforce++": lambda: by_token(0.2, 0.2),
    "reinforce++-baseline": lambda: by_token(0.2, 0.2),
    "maxrl": lambda: by_token(0.2, 0.2),
    "gdpo": lambda: by_token(0.2, 0.2),
    "pass-at-k": lambda: by_token(0.2, 0.2),
    "sapo": by_gate,
    "gmpo": by_geometric_mean,
    "trpo": lambda: by_token(math.inf, math.inf),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_loss_and_gradient_are_those_of_the_paper(name: str) -> None:
    values, slopes = GOLDEN[name]()
    loss, gradient = computed(AlgorithmSection(type=name))
    assert loss == pytest.approx(values, rel=1e-12)
    assert gradient == pytest.approx(slopes, rel=1e-12)


def test_every_objective_has_golden_numbers() -> None:
    assert objectives().keys() == GOLDEN.keys()
    for name, objective in objectives().items():
        assert objective.needs <= NEEDS.keys(), name
        assert set(objective.defaults) | set(objective.fixed) <= AlgorithmSection.model_fields.keys(), name
        assert all((objective.summary, objective.source, objective.equation)), name


@pytest.mark.parametrize("name", ["grpo", "gspo"])
def test_the_gradient_is_that_of_finite_differences(name: str) -> None:
    """Of a loss without stopped gradients; completions of equal weight, as `sequence` aggregation has them."""
    settings = AlgorithmSection(type=name, beta=0.3, dual_clip=1.2)
    lengths = torch.tensor(LENGTHS) if name == "gspo" else None

    def total(values: list[float]) -> Tensor:
        tokens = Tokens(f64(values), f64(OLD), f64(ADVANTAGES), None, f64(REFERENCE), lengths)
        return token_loss(tokens, settings).loss_T.sum()

    _, gradient = computed(settings)
    for t in range(len(NEW)):
        step = [1e-6 * (i == t) for i in range(len(NEW))]
        up, down = (total([n + sign * s for n, s in zip(NEW, step, strict=True)]) for sign in (1, -1))
        assert gradient[t] == pytest.approx(float(up - down) / 2e-6, abs=1e-7)


def test_dual_clip_reaches_the_loss() -> None:
    ratio = math.exp(NEW[2] - OLD[2])  # 1.42, with a negative advantage
    loss, gradient = computed(AlgorithmSection(dual_clip=1.3))
    assert ratio > 1.3
    assert loss[2] == pytest.approx(0.8 * 1.3)
    assert gradient[2] == 0
    assert computed(AlgorithmSection())[1][2] == pytest.approx(0.8 * ratio)


def weights_of(kind: str) -> list[float]:
    """Weights as their definitions say, from the policy that sampled: by the trainer over by the engine."""
    found = []
    for t in range(len(OLD)):
        tokens = owner(t) if kind.startswith("sequence") else [t]
        w = math.exp(sum(OLD[i] - ENGINE[i] for i in tokens))
        low, cap = {"tis": (None, 2), "sequence-tis": (None, 2), "mask": (0.5, 5), "sequence-mask": (0, 2)}[kind]
        found.append(min(w, cap) if low is None else w if low <= w <= cap else 0.0)
    return found


@pytest.mark.parametrize("kind", CORRECTIONS)
@pytest.mark.parametrize("name", ["grpo", "gspo"])
def test_a_correction_weighs_the_policy_loss_outside_its_clip(name: str, kind: str) -> None:
    plain, plain_gradient = computed(AlgorithmSection(type=name))
    kept, kept_gradient = computed(AlgorithmSection(type=name, beta=0.5, kl="k2"))
    loss, gradient = computed(AlgorithmSection(type=name, correction=kind, beta=0.5, kl="k2"))
    weights = weights_of(kind)
    assert min(weights) < 1 < max(weights)
    for t, w in enumerate(weights):
        assert loss[t] == pytest.approx(w * plain[t] + kept[t] - plain[t])  # and not the KL
        shared = [weights[i] for i in owner(t)] if name == "gspo" else [w]  # gspo: each loss holds every token
        mean = sum(shared) / len(shared)
        assert gradient[t] == pytest.approx(mean * plain_gradient[t] + kept_gradient[t] - plain_gradient[t])


def test_each_correction_cuts_something_here() -> None:
    for kind in CORRECTIONS:
        tokens = Tokens(f64(NEW), f64(OLD), f64(ADVANTAGES), f64(ENGINE), None, torch.tensor(LENGTHS))
        terms = token_loss(tokens, AlgorithmSection(correction=kind))
        assert terms.weights_T is not None
        assert terms.cut_T is not None
        assert terms.weights_T.tolist() == pytest.approx(weights_of(kind))
        cut = [w in (0.0, CORRECTIONS[kind].cap) for w in weights_of(kind)]
        assert terms.cut_T.tolist() == cut
        assert 0 < sum(cut) < len(cut) or kind == "mask"


def test_what_is_needed_must_be_there() -> None:
    tokens = Tokens(f64(NEW), f64(OLD), f64(ADVANTAGES))
    with pytest.raises(ValueError, match="engine's log-probabilities"):
        token_loss(tokens, AlgorithmSection(correction="tis"))
    with pytest.raises(ValueError, match="`needs` must name `sequence`"):
        token_loss(tokens, AlgorithmSection(type="gspo"))


@pytest.mark.parametrize("kind", KL_ESTIMATORS)
def test_the_expected_gradient_of_a_kl_is_that_of_a_divergence(kind: str) -> None:
    """By enumeration of four tokens: k1 and k2 lower KL(policy || reference), k3 KL(reference || policy)."""
    logits = f64([0.3, -1.0, 0.8, 0.1]).requires_grad_()
    reference = f64([-0.2, 0.5, 0.4, -1.3]).softmax(0)
    policy = logits.softmax(0)
    settings = AlgorithmSection(beta=1.0, kl=kind)
    tokens = Tokens(logits.log_softmax(0), policy.detach().log(), torch.zeros(4), None, reference.log())
    terms = token_loss(tokens, settings)
    (ours,) = torch.autograd.grad((policy.detach() * terms.loss_T).sum(), logits, retain_graph=True)
    reverse = (policy * (policy / reference).log()).sum()
    forward = (reference * (reference / policy).log()).sum()
    (exact,) = torch.autograd.grad(forward if kind == "k3" else reverse, logits, retain_graph=True)
    torch.testing.assert_close(ours, exact, rtol=1e-12, atol=1e-12)
    assert terms.kl_T is not None
    d = (reference / policy).log().detach()
    k3 = d.exp() - d - 1
    torch.testing.assert_close(terms.kl_T, {"k1": -d, "k2": d**2 / 2, "k3": k3, "unbiased-k3": k3}[kind])


# --- what a recipe may set ------------------------------------------------------------------------------------------


def load(*overrides: str) -> Recipe:
    found = parse_recipe(TEXT, "The recipe", overrides)
    assert isinstance(found, Recipe)
    return found


def refused(*overrides: str) -> str:
    with pytest.raises(RecipeError) as caught:
        load(*overrides)
    return str(caught.value)


PAPERS = {
    "grpo": ("std", "sequence", None, 0.2, 0.2),
    "dr-grpo": ("mean", "fixed", None, 0.2, 0.2),
    "dapo": ("std", "token", None, 0.2, 0.28),
    "rloo": ("leave-one-out", "fixed", 1.0, None, None),
    "cispo": ("std", "token", None, None, 4.0),
    "gspo": ("std", "sequence", None, 3e-4, 4e-4),
    "ppo": ("gae", "token", None, 0.2, 0.2),
    "vapo": ("gae", "token", None, 0.2, 0.28),
    "actor-critic": ("gae", "token", None, None, None),
    "reinforce": ("none", "fixed", 1.0, None, None),
    "reinforce++": ("batch", "token", None, 0.2, 0.2),
    "reinforce++-baseline": ("mean-batch", "token", None, 0.2, 0.2),
    "gmpo": ("std", "sequence", None, 1 - math.exp(-0.4), math.exp(0.4) - 1),
    "sapo": ("std", "sequence", None, None, None),
    "gpg": ("gpg", "token", None, None, None),
    "maxrl": ("max-rl", "fixed", 1.0, 0.2, 0.2),
    "gdpo": ("gdpo", "sequence", None, 0.2, 0.2),
    "pass-at-k": ("pass-at-k", "sequence", None, 0.2, 0.2),
    "trpo": ("mean", "token", None, None, None),
}


@pytest.mark.parametrize("name", PAPERS)
def test_defaults_are_the_papers_and_are_shown(name: str) -> None:
    recipe = load(f"algorithm.type={name}", *(["critic={}"] if "values" in objectives()[name].needs else []))
    a = recipe.algorithm
    assert (a.advantage, a.aggregation, a.fixed_denominator, a.clip_low, a.clip_high) == PAPERS[name]
    assert (a.beta, a.dual_clip, a.correction) == (0.0, None, "none")
    assert parse_recipe(recipe_to_yaml(recipe), "The recipe") == recipe
    assert f"type: {name}\n" in recipe_to_yaml(recipe)


def test_what_is_set_wins() -> None:
    a = load("algorithm.type=dapo", "algorithm.clip_high=0.5", "algorithm.advantage=mean").algorithm
    assert (a.clip_high, a.advantage, a.aggregation) == (0.5, "mean", "token")
    assert load("algorithm={clip_low: 10, type: dapo}").algorithm.clip_low == 10
    assert load("algorithm.clip_high=0.3", "algorithm.type=gspo").algorithm.clip_high == 0.3
    a = load("algorithm.type=rloo", "algorithm.aggregation=sequence").algorithm
    assert (a.aggregation, a.fixed_denominator) == ("sequence", None)
    a = load("algorithm.correction=mask", "algorithm.correction_cap=3").algorithm
    assert (a.correction_floor, a.correction_cap) == (0.5, 3.0)
    assert load("algorithm.correction=sequence-tis").algorithm.correction_cap == 2.0


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["algorithm.type=gsop"], ["`gsop`; allowed are", "`cispo`", "Write `algorithm.type=gspo`"]),
        (["algorithm.type=gspo", "algorithm.aggregation=token"], ["`token`, which cannot be set", "whole completion"]),
        (["algorithm.type=rloo", "algorithm.epochs=2"], ["`algorithm.epochs` is `2`", "one update a rollout batch"]),
        (["algorithm.type=rloo", "algorithm.clip_low=0.2"], ["no ratio that could be clipped", "it is `null`"]),
        (["algorithm.type=cispo", "algorithm.dual_clip=3"], ["`algorithm.dual_clip` is `3.0`", "`clip_high` bounds"]),
        (["algorithm.correction_cap=3"], ["`algorithm.correction` is `none` and does not use it", "`sequence-tis`"]),
        (["algorithm.correction=tis", "algorithm.correction_floor=0.1"], ["does not use it", "`mask`"]),
        (["algorithm.correction=mask", "algorithm.correction_cap=0.4"], ["is not below", "defaults of `mask`"]),
        (["algorithm.options.scale=2"], ["`algorithm.options.scale` is no option", "There are: none"]),
        (["algorithm.kl=k4"], ['`algorithm.kl` is "k4"; allowed is `k1`, `k2`, `k3` or `unbiased-k3`']),
        (["algorithm.dual_clip=1"], ["`algorithm.dual_clip` is 1", "above 1"]),
        (["algorithm.type=3"], ["`algorithm.type` is `3`; allowed are"]),
        (
            ["rollout.group_size=1"],
            [
                "`algorithm.advantage=std` compares",
                "needs no group: `none`, `moving-average`, `greedy`, `batch`; or a critic",
            ],
        ),
        (["algorithm.type=pass-at-k", "algorithm.options.k=9"], ["`algorithm.options.k` is 9", "gives only 8"]),
        (["algorithm.type=pass-at-k", "algorithm.options.k=1.5"], ["allowed is a whole number of at least 1"]),
        (["algorithm.options.k=2"], ["is no option of `algorithm.type=grpo`", "There are: none"]),
        (["algorithm.type=sapo", "algorithm.clip_low=0.2"], ["its gate takes the place of the clip"]),
        (["algorithm.type=gmpo", "algorithm.aggregation=token"], ["whole completion"]),
        (["algorithm.type=maxrl", "algorithm.kl_in=reward", "algorithm.beta=0.1"], ["is of rewards alone"]),
        (["algorithm.kl_target=3"], ["with `algorithm.beta` 0 there is no KL", "`algorithm.beta=0.01`"]),
        (["algorithm.off_policy_mask=0.1"], ["nothing would ever be masked", "`algorithm.mini_batches=2`"]),
    ],
)
def test_what_cannot_be_set_is_refused(overrides: list[str], words: list[str]) -> None:
    message = refused(*overrides)
    assert all(word in message for word in words), message


def test_what_an_update_needs() -> None:
    for overrides, needs in [
        ([], {"old"}),
        (["algorithm.beta=0.1"], {"old", "reference"}),
        (["algorithm.type=rloo"], set()),
        (["algorithm.type=gspo"], {"old", "sequence"}),
        (["algorithm.type=rloo", "algorithm.correction=tis"], {"old", "engine"}),
        (["algorithm.correction=sequence-mask"], {"old", "engine", "sequence"}),
        (["algorithm.type=ppo", "critic={}"], {"old", "values"}),
        (["algorithm.advantage=gae", "critic={}"], {"old", "values"}),
        (["algorithm.off_policy_mask=0.1", "algorithm.epochs=2"], {"old", "engine", "sequence"}),
        (["algorithm.type=rloo", "algorithm.kl=unbiased-k3", "algorithm.beta=0.1"], {"old", "reference"}),
    ]:
        assert load(*overrides).algorithm.needs == needs, overrides


def test_a_recipe_is_read_without_torch() -> None:
    code = (
        "import sys; from rethink.recipe.recipe_files import parse_recipe;"
        f"parse_recipe({TEXT!r}, 'it', ['algorithm.type=gspo']); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "False"


def test_the_page_is_current() -> None:
    path = Path(ROOT) / "docs/algorithms.md"
    assert path.read_text() == page() + "\n", "run: python -m rethink.algorithms.page > docs/algorithms.md"
    assert all(f"\n| `{name}` |" in page() and f"\n## `{name}`" in page() for name in objectives())
