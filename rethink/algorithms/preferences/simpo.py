"""SimPO: no reference model; the reward is the mean log-probability, and a margin is asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rethink.recipe.preference import PreferenceObjective
from rethink.recipe.terms import Option

if TYPE_CHECKING:
    from rethink.algorithms.preference import Answers, PreferenceTerms
    from rethink.recipe.preference import PreferenceSection


def loss(answers: Answers, settings: PreferenceSection) -> PreferenceTerms:
    """-log sigmoid(beta * (mean log p of the chosen - mean log p of the rejected) - gamma)."""
    from rethink.algorithms.preference import bradley_terry_loss, chosen_and_rejected, pair_terms

    rewards_A = settings.beta * answers.means_A
    chosen_B, rejected_B = chosen_and_rejected(rewards_A)
    return pair_terms(bradley_terry_loss(chosen_B - settings.options["gamma"], rejected_B), rewards_A)


PREFERENCE_OBJECTIVE = PreferenceObjective(
    name="simpo",
    summary="logistic loss of the difference of mean log-probabilities, less a margin; no reference model",
    source="SimPO (arXiv 2405.14734), equation 6",
    equation="-log sigmoid(beta log p(c) / |c| - beta log p(r) / |r| - gamma)",
    loss=loss,
    defaults={"beta": 2.0},
    options={"gamma": Option(1.0, "margin of the rewards")},
    notes="The paper tries `beta` 2 to 10 and `gamma` of 0.3 to 1.6, and lowers the learning rate to 3e-7 to 1e-6.",
)
