"""Training on preferences as a recipe: `kind: preference`.

An *example* is a pair of answers to a prompt, or one answer with a label (`algorithm.type=kto`). A *step* is one
optimizer update on `batch_size` examples. An *epoch* is every training example once.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from pydantic import Field

from rethink.kinds.reward_model.recipe import PreferenceRows
from rethink.kinds.sft.recipe import SFTPrompt, system_without_place
from rethink.recipe.preference import PreferenceSection
from rethink.recipe.schema import OptimizerSection
from rethink.tasks.preferences import Rows


class PreferenceOptimizer(OptimizerSection):
    """AdamW on fp32 master weights, with the usual rate and schedule of DPO."""

    learning_rate: float = Field(default=5e-7, gt=0)
    """Peak learning rate. 5e-7 is usual for DPO, IPO, KTO and SimPO on models of 7B; smaller models take more. ORPO
    takes that of fine-tuning (8e-6 in its paper)."""
    schedule: Literal["constant", "linear", "cosine"] = "linear"
    """Schedule after the warm-up."""


class PreferenceRecipe(PreferenceRows):
    """DPO and its family: a language model learns from preferences, without sampling."""

    kind: Literal["preference"] = "preference"
    """Kind of run."""
    algorithm: PreferenceSection = PreferenceSection()
    """The objective."""
    prompt: SFTPrompt = SFTPrompt()
    """How a prompt and its answers are rendered."""
    optimizer: PreferenceOptimizer = PreferenceOptimizer()
    """AdamW."""

    @property
    def rows(self) -> Rows:
        """Which examples are trained on."""
        return "pairwise" if self.algorithm.objective.paired else "either"

    def contradictions(self) -> Iterator[str]:
        """What cannot be meant in a run of this kind."""
        yield from super().contradictions()
        yield from system_without_place(self.prompt)
