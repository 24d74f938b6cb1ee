"""Every preference objective against vectors derived by hand from its paper; and what a recipe may set of it."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from rethink.algorithms.preference import Answers, PreferenceTerms
from rethink.errors import RecipeError
from rethink.recipe.preference import PREFERENCE_NEEDS, PreferenceSection, preference_objectives
from tests.algorithms import derive_preferences

VECTORS: dict[str, Any] = json.loads(Path(__file__).with_name("preference_vectors.json").read_text())
WEIGHTS = {"options": {"desirable": 1.25, "undesirable": 0.75}}


def f64(values: list[Any]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def answers_of(name: str) -> tuple[Answers, Tensor]:
    """What an objective is given of the vectors' examples, and the leaf of its log-probabilities."""
    if preference_objectives()[name].paired:
        each, labels = [answer for pair in VECTORS["pairs"] for answer in pair], None
    else:
        each, labels = [answer for answer, _ in VECTORS["labelled"]], [label for _, label in VECTORS["labelled"]]
    logprobs, reference, lengths = (f64(list(column)) for column in zip(*each, strict=True))
    leaf = logprobs.requires_grad_()
    labels_B = None if labels is None else torch.tensor(labels)
    return Answers(leaf, lengths.long(), reference, labels_B, VECTORS["kl"]), leaf


def terms_of(name: str, **fields: Any) -> tuple[PreferenceTerms, Tensor]:
    """(terms, slopes of the sum of the losses)."""
    settings = PreferenceSection(type=name, **fields)
    answers, leaf = answers_of(name)
    terms = settings.objective.loss(answers, settings)
    (slopes,) = torch.autograd.grad(terms.loss_B.sum(), leaf)
    return terms, slopes


@pytest.mark.parametrize("name", VECTORS["objectives"])
def test_value_slopes_and_rewards_are_those_of_the_paper(name: str) -> None:
    expected = VECTORS["objectives"][name]
    terms, slopes = terms_of(name, **(WEIGHTS if name == "kto" else {}))
    assert terms.loss_B.tolist() == pytest.approx([example["loss"] for example in expected], rel=1e-12)
    assert slopes.tolist() == pytest.approx([slope for example in expected for slope in example["slopes"]], rel=1e-12)
    rewards = [reward for example in expected for reward in example["rewards"]]
    assert terms.rewards_A.tolist() == pytest.approx(rewards, rel=1e-12)
    if name == "kto":
        signs = [1 if label else -1 for _, label in VECTORS["labelled"]]
        margins = [sign * (reward - 0.1 * VECTORS["kl"]) for sign, reward in zip(signs, rewards, strict=True)]
    else:
        margins = [chosen - rejected for chosen, rejected in zip(rewards[0::2], rewards[1::2], strict=True)]
    assert terms.margins_B.tolist() == pytest.approx(margins, rel=1e-12, abs=1e-15)


def test_the_file_is_what_the_script_derives() -> None:
    assert json.loads(json.dumps(derive_preferences.derived())) == VECTORS


def test_every_objective_has_vectors() -> None:
    assert VECTORS["objectives"].keys() == preference_objectives().keys()
    for name, objective in preference_objectives().items():
        assert objective.needs <= PREFERENCE_NEEDS.keys(), name
        assert objective.defaults.keys() <= PreferenceSection.model_fields.keys(), name
        assert all((objective.summary, objective.source, objective.equation)), name


def test_limits_that_the_papers_name() -> None:
    plain, plain_slopes = terms_of("dpo")
    for name in ("cdpo", "robust-dpo"):
        terms, slopes = terms_of(name, options={"label_smoothing": 0.0})
        torch.testing.assert_close(terms.loss_B, plain.loss_B)
        torch.testing.assert_close(slopes, plain_slopes)
    # Robust DPO over labels that are wrong at its rate has the mean of clean ones.
    settings = PreferenceSection(type="robust-dpo", options={"label_smoothing": 0.2})
    answers, _ = answers_of("dpo")
    order = torch.arange(len(answers.logprobs_A)).view(-1, 2).flip(1).flatten()
    assert answers.reference_logprobs_A is not None
    turned = Answers(answers.logprobs_A[order], answers.lengths_A[order], answers.reference_logprobs_A[order])
    clean, wrong = (settings.objective.loss(given, settings).loss_B for given in (answers, turned))
    torch.testing.assert_close(0.8 * clean + 0.2 * wrong, plain.loss_B)
    # A model that is its own reference is at chance; a large KL gives KTO's good answers the most to gain.
    same = Answers(f64([-3.0, -4.0]), torch.tensor([2, 2]), f64([-3.0, -4.0]))
    assert PreferenceSection().objective.loss(same, PreferenceSection()).loss_B.item() == pytest.approx(math.log(2))


@pytest.mark.parametrize("name", preference_objectives())
def test_far_apart_stays_finite(name: str) -> None:
    settings = PreferenceSection(type=name)
    labels = None if settings.objective.paired else torch.tensor([True, False, True, False])
    for high, low in ((-1e-9, -5e4), (-5e4, -1e-9)):
        leaf = torch.tensor([high, low, low, high]).requires_grad_()
        answers = Answers(leaf, torch.tensor([5, 3, 1, 4]), torch.tensor([low, high, low, high]), labels, 3.0)
        terms = settings.objective.loss(answers, settings)
        (slopes,) = torch.autograd.grad(terms.loss_B.sum(), leaf)
        assert bool(terms.loss_B.isfinite().all())
        assert bool(slopes.isfinite().all())


def test_what_is_needed_must_be_there() -> None:
    answers = Answers(f64([-1.0, -2.0]), torch.tensor([1, 1]))
    with pytest.raises(ValueError, match="`needs` must name `reference`"):
        PreferenceSection().objective.loss(answers, PreferenceSection())
    with pytest.raises(ValueError, match="`paired` must be False"):
        _ = answers.labels


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"type": "dop"}, "`algorithm.type` is `dop`; allowed are .*`simpo`.* Write `algorithm.type=dpo`"),
        ({"type": "grpo"}, "`algorithm.type` is `grpo`"),
        ({"options": {"gamma": 1}}, r"`algorithm.options.gamma` is no option of `algorithm.type=dpo`. There are: none"),
        ({"type": "cdpo", "options": {"label_smoothing": 0.5}}, "a number of at least 0 and at most 0.49"),
        ({"type": "simpo", "reference": "model"}, "`algorithm.type=simpo` needs no reference model"),
    ],
)  # fmt: skip
def test_refusals(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        PreferenceSection(**fields)


def test_the_papers_defaults() -> None:
    assert (PreferenceSection().type, PreferenceSection().beta) == ("dpo", 0.1)
    assert PreferenceSection(type="simpo").options == {"gamma": 1.0}
    assert PreferenceSection(type="simpo").beta == 2.0
    assert PreferenceSection(type="simpo", beta=3).beta == 3
    assert PreferenceSection(type="dpo-norm").beta == 5.0


def test_a_record_is_read_without_torch() -> None:
    code = (
        "import sys; from rethink.recipe.preference import preference_objectives, PreferenceSection as S; "
        "[S(type=name) for name in preference_objectives()]; assert 'torch' not in sys.modules"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
