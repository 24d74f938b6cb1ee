"""IPO: the squared distance of the log-ratios' difference from a margin, which it therefore does not exceed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rethink.recipe.preference import PreferenceObjective

if TYPE_CHECKING:
    from rethink.algorithms.preference import Answers, PreferenceTerms
    from rethink.recipe.preference import PreferenceSection


def loss(answers: Answers, settings: PreferenceSection) -> PreferenceTerms:
    """(log-ratio of the chosen - log-ratio of the rejected - 1 / (2 beta))^2."""
    from rethink.algorithms.preference import chosen_and_rejected, pair_terms

    chosen_B, rejected_B = chosen_and_rejected(answers.log_ratios_A)
    loss_B = (chosen_B - rejected_B - 1 / (2 * settings.beta)).square()
    return pair_terms(loss_B, settings.beta * answers.log_ratios_A)


PREFERENCE_OBJECTIVE = PreferenceObjective(
    name="ipo",
    summary="squared distance of the difference of log-ratios from 1 / (2 beta)",
    source="IPO (arXiv 2310.12036), equation 17; `beta` is its tau",
    equation="(log(p(c) / p_ref(c)) - log(p(r) / p_ref(r)) - 1 / (2 beta))^2",
    loss=loss,
    needs={"reference"},
    notes="The log-probability of an answer is the sum over its tokens, as in the paper. Implementations that take the "
    "mean aim at 1 / (2 beta) for each token.",
)
