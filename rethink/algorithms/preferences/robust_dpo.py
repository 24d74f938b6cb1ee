"""Robust DPO: an unbiased estimate of the loss with clean labels, from labels that are wrong at a known rate."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rethink.recipe.preference import PreferenceObjective
from rethink.recipe.terms import Option

if TYPE_CHECKING:
    from rethink.algorithms.preference import Answers, PreferenceTerms
    from rethink.recipe.preference import PreferenceSection


def loss(answers: Answers, settings: PreferenceSection) -> PreferenceTerms:
    """((1 - e) * DPO - e * DPO with chosen and rejected exchanged) / (1 - 2 e), e the rate of wrong labels."""
    from rethink.algorithms.preference import bradley_terry_loss, chosen_and_rejected, pair_terms

    rewards_A = settings.beta * answers.log_ratios_A
    chosen_B, rejected_B = chosen_and_rejected(rewards_A)
    noise = settings.options["label_smoothing"]
    loss_B = (1 - noise) * bradley_terry_loss(chosen_B, rejected_B) - noise * bradley_terry_loss(rejected_B, chosen_B)
    return pair_terms(loss_B / (1 - 2 * noise), rewards_A)


PREFERENCE_OBJECTIVE = PreferenceObjective(
    name="robust-dpo",
    summary="DPO whose mean over wrong labels is the loss with right ones",
    source="robust DPO (arXiv 2403.00409), section 3",
    equation="(-(1 - e) log sigmoid(d) + e log sigmoid(-d)) / (1 - 2 e), "
    "d = beta (log(p(c) / p_ref(c)) - log(p(r) / p_ref(r)))",
    loss=loss,
    needs={"reference"},
    options={"label_smoothing": Option(0.1, "e, the rate of wrong labels that is assumed", high=0.49)},
    notes="The loss has no lower bound: it may be negative.",
)
