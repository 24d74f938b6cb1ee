"""DPO: the logistic loss of the difference of two implicit rewards."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rethink.recipe.preference import PreferenceObjective

if TYPE_CHECKING:
    from rethink.algorithms.preference import Answers, PreferenceTerms
    from rethink.recipe.preference import PreferenceSection


def loss(answers: Answers, settings: PreferenceSection) -> PreferenceTerms:
    """-log sigmoid(reward of the chosen - reward of the rejected), reward = beta * log(p / p_ref)."""
    from rethink.algorithms.preference import bradley_terry_loss, chosen_and_rejected, pair_terms

    rewards_A = settings.beta * answers.log_ratios_A
    return pair_terms(bradley_terry_loss(*chosen_and_rejected(rewards_A)), rewards_A)


PREFERENCE_OBJECTIVE = PreferenceObjective(
    name="dpo",
    summary="logistic loss of the difference of implicit rewards, which are log-ratios to the reference model",
    source="DPO (arXiv 2305.18290), equation 7",
    equation="-log sigmoid(beta (log(p(c) / p_ref(c)) - log(p(r) / p_ref(r))))",
    loss=loss,
    needs={"reference"},
    notes="The log-probability of an answer is the sum over its tokens.",
)
