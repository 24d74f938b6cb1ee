"""What a preference objective is: one record, in a module under `rethink/algorithms/preferences/` or in an installed
package.

    rethink/algorithms/preferences/NAME.py   PREFERENCE_OBJECTIVE = PreferenceObjective(name=…, loss=…), and `loss`

Nothing else knows the name of one: `preference_objectives()` finds the modules, and the entry points
`rethink.preferences` of installed packages. A recipe is read without torch, so these modules import it inside their
functions. The objectives of policy gradients are in `objective.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal

from pydantic import Field, model_validator

from rethink.errors import RecipeError
from rethink.recipe.objective import Needed, named, options_of
from rethink.recipe.registry import registered
from rethink.recipe.schema import Section
from rethink.recipe.terms import Option

ENTRY_POINTS = "rethink.preferences"
"""Group under which an installed package names its own: `mine = "my_package.mine:PREFERENCE_OBJECTIVE"`."""

PreferenceNeed = Literal["reference", "kl"]

PREFERENCE_NEEDS: Mapping[PreferenceNeed, Needed] = {
    "reference": Needed(
        "log-probabilities of the answers under the reference model, which is the model at the start of the run",
        "one forward pass over the examples before the first step, whose results are stored; or, with "
        "`algorithm.reference=model`, a second model in memory and a forward pass each step",
        passes=1,
    ),
    "kl": Needed(
        "an estimate of the KL from the reference model, from answers to other prompts",
        "a forward pass each step over as many answers as the step has",
        passes=1,
    ),
}
"""What a preference objective may need beside the policy's own log-probabilities of the answers."""


@dataclass(frozen=True, slots=True)
class PreferenceObjective:
    """A loss of pairs of answers, or of answers with a label, and what goes with it."""

    name: str
    """The value of `algorithm.type` in a recipe."""
    summary: str
    """What is its own, in one line."""
    source: str
    """Paper and equation."""
    equation: str
    """Loss of one example, to be minimised, in plain text; `c` and `r` are the chosen and the rejected answer."""
    loss: Callable[..., Any]
    """`(answers: Answers, settings: PreferenceSection) -> PreferenceTerms`: a pure function of tensors."""
    needs: Set[PreferenceNeed] = frozenset()
    paired: bool = True
    """Whether an example is a pair of answers to a prompt; else it is one answer with a label."""
    defaults: Mapping[str, Any] = field(default_factory=dict)
    """Fields of `algorithm` whose default is another than DPO's: the paper's values."""
    options: Mapping[str, Option] = field(default_factory=dict)
    """Numbers that only this objective has."""
    notes: str = ""
    """What of the paper is set elsewhere, and what is done otherwise."""


@cache
def preference_objectives() -> Mapping[str, PreferenceObjective]:
    """Every preference objective by name: those of the package, then those of other installed packages."""
    return registered("rethink.algorithms.preferences", ENTRY_POINTS, PreferenceObjective, "a preference objective")


class PreferenceSection(Section):
    """The objective and its parts (docs/algorithms.md#preferences). Defaults are those of DPO; another `type` has its
    paper's, and whatever is set here wins.
    """

    type: str = "dpo"
    """The objective: `dpo`, `dpo-norm`, `cdpo`, `robust-dpo`, `ipo`, `simpo`, `orpo`, `kto`, or one of an installed
    package; `rethink algorithms` lists them with their defaults."""
    beta: float = Field(default=0.1, gt=0)
    """Scale of the implicit reward: of the log-ratio to the reference model (DPO and its family), of the mean
    log-probability (`simpo`), or weight of the odds ratio (`orpo`)."""
    options: dict[str, float] = Field(default_factory=dict)
    """Numbers that only this objective has; `rethink algorithms NAME` says which."""
    reference: Literal["stored", "model"] = "stored"
    """Log-probabilities of the reference model, which is the model at the start. `stored`: computed once, before the
    first step, and stored in the run's folder. `model`: computed each step by a second model in memory."""

    @model_validator(mode="after")
    def _take_defaults(self) -> PreferenceSection:
        objective = self.objective
        given = {name: getattr(self, name) for name in self.model_fields_set}
        for name, value in {**objective.defaults, **given}.items():
            object.__setattr__(self, name, value)  # frozen; `model_fields_set` stays what the recipe sets
        options = options_of(f"`algorithm.type={self.type}`", objective.options, self.options)
        object.__setattr__(self, "options", options)
        if self.reference == "model" and "reference" not in objective.needs:
            raise RecipeError(
                f"`algorithm.reference` is `model`, but `algorithm.type={self.type}` needs no reference model. Remove "
                "it."
            )
        return self

    @property
    def objective(self) -> PreferenceObjective:
        """The record of the type.

        Raises:
            RecipeError: there is none.
        """
        return named(self.type, preference_objectives())
