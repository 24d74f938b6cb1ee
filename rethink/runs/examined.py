"""What `rethink check` has to know of a recipe beside its prompt, tasks and rewards."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from rethink.plan.estimate import Estimate, MachineRates
from rethink.recipe.schema import ModelShape, RolloutSection


@dataclass(frozen=True, slots=True)
class Examined:
    """How a recipe of some kind samples, and what it costs."""

    rollout: RolloutSection
    """How completions are sampled."""
    learns: bool = False
    """Whether the model learns from what it samples, so that groups are sampled and judged."""
    held_out: bool = True
    """Whether held-out problems are asked too."""
    estimate: Callable[[ModelShape, MachineRates, int | None, int | None], Estimate] | None = None
    """`(shape, rates, prompt tokens, completion tokens)`: of a run that trains; None: its cost is not examined."""
