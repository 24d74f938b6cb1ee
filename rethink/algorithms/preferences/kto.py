"""KTO: answers with a label, no pairs; the utility of each, compared with the KL to the reference model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rethink.recipe.preference import PreferenceObjective
from rethink.recipe.terms import Option

if TYPE_CHECKING:
    from rethink.algorithms.preference import Answers, PreferenceTerms
    from rethink.recipe.preference import PreferenceSection


def loss(answers: Answers, settings: PreferenceSection) -> PreferenceTerms:
    """weight * (1 - sigmoid(+-(reward - z))), + for good answers; reward = beta * log(p / p_ref), z = beta * KL."""
    import torch

    from rethink.algorithms.preference import PreferenceTerms

    rewards_B = settings.beta * answers.log_ratios_A
    signs_B = torch.where(answers.labels, 1.0, -1.0).to(rewards_B.dtype)
    margins_B = signs_B * (rewards_B - settings.beta * answers.kl)
    weights_B = torch.where(answers.labels, settings.options["desirable"], settings.options["undesirable"])
    loss_B = weights_B.to(rewards_B.dtype) * torch.sigmoid(-margins_B)
    return PreferenceTerms(loss_B, rewards_B.detach(), margins_B.detach())


PREFERENCE_OBJECTIVE = PreferenceObjective(
    name="kto",
    summary="answers with a label in place of pairs: the sigmoid of a log-ratio, compared with the KL",
    source="KTO (arXiv 2402.01306), equation 8",
    equation="w (1 - sigmoid(s (beta log(p(y) / p_ref(y)) - beta KL))), s = 1 for good answers and -1 for bad ones",
    loss=loss,
    needs={"reference", "kl"},
    paired=False,
    options={
        "desirable": Option(1.0, "w of good answers"),
        "undesirable": Option(1.0, "w of bad answers"),
    },
    notes="KL is the mean log-ratio, at least 0 and without a gradient, of answers to other prompts. The paper takes "
    "them from the same batch; here each prompt has one such answer, drawn by the seed, so that the reference model's "
    "log-probabilities can be stored. Where good and bad answers are not equally many, the paper sets the weights so "
    "that weight times number of the good is 1 to 4/3 of that of the bad. Rows of pairs count as two answers.",
)
