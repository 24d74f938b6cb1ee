"""ORPO: fine-tuning on the chosen answers with a penalty on the odds of the rejected ones; no reference model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rethink.recipe.preference import PreferenceObjective

if TYPE_CHECKING:
    from rethink.algorithms.preference import Answers, PreferenceTerms
    from rethink.recipe.preference import PreferenceSection


def loss(answers: Answers, settings: PreferenceSection) -> PreferenceTerms:
    """-mean log p of the chosen + beta * -log sigmoid(log odds of the chosen - log odds of the rejected)."""
    from rethink.algorithms.preference import bradley_terry_loss, chosen_and_rejected, pair_terms

    means_A = answers.means_A
    # log(p / (1 - p)) of p = exp(mean); expm1 keeps 1 - p exact where p is near 1, and the clamp keeps it above 0.
    odds_A = means_A - (-means_A.clamp(max=-1e-7).expm1()).log()
    chosen_B, _ = chosen_and_rejected(means_A)
    loss_B = -chosen_B + settings.beta * bradley_terry_loss(*chosen_and_rejected(odds_A))
    return pair_terms(loss_B, settings.beta * means_A)


PREFERENCE_OBJECTIVE = PreferenceObjective(
    name="orpo",
    summary="fine-tuning on the chosen answers, and the log of the odds ratio of both; no reference model",
    source="ORPO (arXiv 2403.07691), equations 6 and 7; `beta` is its lambda",
    equation="-log p(c) / |c| - beta log sigmoid(log odds(c) - log odds(r)), odds(y) = q / (1 - q), "
    "q = exp(log p(y) / |y|)",
    loss=loss,
    notes="It replaces fine-tuning: start from a base model, with a learning rate of fine-tuning (the paper: 8e-6).",
)
