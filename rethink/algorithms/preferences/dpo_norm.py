"""DPO with log-ratios per token, so that length decides nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rethink.recipe.preference import PreferenceObjective

if TYPE_CHECKING:
    from rethink.algorithms.preference import Answers, PreferenceTerms
    from rethink.recipe.preference import PreferenceSection


def loss(answers: Answers, settings: PreferenceSection) -> PreferenceTerms:
    """As DPO, with the mean log-ratio of an answer's tokens in place of the sum."""
    from rethink.algorithms.preference import bradley_terry_loss, chosen_and_rejected, pair_terms

    rewards_A = settings.beta * answers.log_ratios_A / answers.lengths_A
    return pair_terms(bradley_terry_loss(*chosen_and_rejected(rewards_A)), rewards_A)


PREFERENCE_OBJECTIVE = PreferenceObjective(
    name="dpo-norm",
    summary="DPO with the mean log-ratio of an answer's tokens in place of their sum",
    source="length-normalised DPO: Tulu 3 (arXiv 2411.15124), section 5",
    equation="-log sigmoid(beta (log(p(c) / p_ref(c)) / |c| - log(p(r) / p_ref(r)) / |r|))",
    loss=loss,
    needs={"reference"},
    defaults={"beta": 5.0},
    notes="`beta` is that of a mean, so it is larger than DPO's by about the length of an answer; 5 is the paper's.",
)
