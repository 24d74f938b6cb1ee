"""Sections that say which problems and groups a run learns from, by what it sampled (docs/sampling.md)."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from rethink.recipe.section import Counts, Section


class DynamicSampling(Section):
    """Sampling of further problems in place of groups without signal, whose rewards are all equal (DAPO, arXiv
    2503.14476, section 3.2). Each further round of a batch asks new problems.
    """

    max_rounds: Annotated[int, Counts.WHEN_NEW] = Field(default=10, gt=0)
    """Most rounds of sampling for a batch, the first one included."""
    when_short: Annotated[Literal["stop", "fill"], Counts.WHEN_NEW] = "stop"
    """What to do if that does not give enough groups. `stop`: stop the run, which can be resumed; `fill`: fill up the
    batch with groups without signal, which give no gradient."""
    prompts_per_round: int | None = Field(default=None, gt=0)
    """Least number of prompts in a round. More than are missing may save a round; groups with signal that are then left
    over are not trained on. None: as many prompts as groups are missing."""
    reward: str | None = None
    """Name of the reward function whose scores must differ within a group, such as `accuracy`, in addition to the
    rewards; None: the rewards alone."""


class DifficultySection(Section):
    """Problems chosen by their measured pass rate: the mean score of the completions that the run sampled for a problem
    when it last asked it.
    """

    low: float = Field(default=0.1, ge=0, le=1)
    """Lowest pass rate of a problem that is asked again in the next epoch."""
    high: float = Field(default=0.9, ge=0, le=1)
    """Highest pass rate of such a problem."""
    rest_epochs: int = Field(default=2, gt=0)
    """Epochs for which a problem outside these bounds is left out. Then it is asked and measured again, since the
    policy has changed."""
    reward: str = "accuracy"
    """Name of the reward function whose scores, from 0 to 1, are the pass rate."""

    def leaves_out(self, rate: float, epochs: int) -> bool:
        """Whether a problem with this pass rate, measured so many epochs ago, is left out."""
        return epochs <= self.rest_epochs and not self.low <= rate <= self.high
