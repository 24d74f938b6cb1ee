"""What an objective is: one record, in a module under `rethink/algorithms/objectives/` or in an installed package.

    rethink/algorithms/objectives/NAME.py   OBJECTIVE = Objective(name=…, equation=…, loss=…), and the function `loss`

Nothing else knows the name of an objective: `objectives()` finds the modules, and the entry points `rethink.objectives`
of installed packages. A recipe is read without torch, so these modules import it inside their functions.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal, NamedTuple, TypeVar

from rethink.errors import RecipeError
from rethink.recipe.registry import registered
from rethink.recipe.terms import ADVANTAGES, CONTROLLER, COVARIANCES, Option

ENTRY_POINTS = "rethink.objectives"
"""Group under which an installed package names its own objectives: `mine = "my_package.mine:OBJECTIVE"`."""

Need = Literal["old", "engine", "reference", "values", "sequence", "mini-batch"]
Named = TypeVar("Named")


class Needed(NamedTuple):
    """What a need is, and what it costs."""

    what: str
    cost: str
    """In words."""
    passes: int = 0
    """Forward passes of a whole model that every update makes for it."""
    head_passes: int = 0
    """Forward passes of the head alone."""


NEEDS: Mapping[Need, Needed] = {
    "old": Needed(
        "log-probabilities that the ratio is taken to: under the policy that sampled; with `rollout.lag` and a "
        "correction under the one before the first update on the batch",
        "with several updates a batch, one forward pass over the batch, unless the engine's serve",
    ),
    "engine": Needed("log-probabilities that the engine sampled with", "none: they are stored with the rollouts"),
    "reference": Needed(
        "log-probabilities under the reference model",
        "a second model in memory, a forward pass an update (with `kl_in: reward` one a batch)",
        passes=1,
    ),
    "values": Needed(
        "a critic's values of the tokens (the section `critic`)",
        "a second model with an optimizer of its own, a forward pass over each batch, and its training on it",
    ),
    "sequence": Needed(
        "sums over whole completions", "a second pass of the head an update, not of the body", head_passes=1
    ),
    "mini-batch": Needed(
        "log-probabilities and entropies of all tokens of the mini-batch, before any gradient",
        "a forward pass an update, without a graph; other trainer ranks do not share it",
        passes=1,
    ),
}
"""What an objective may need beside the policy's own log-probabilities."""


class Fixed(NamedTuple):
    """The only value that a field can have with an objective."""

    value: Any
    why: str
    """Reason, as a sentence without a full stop."""


@dataclass(frozen=True, slots=True)
class Objective:
    """A policy loss and what goes with it."""

    name: str
    """The value of `algorithm.type` in a recipe."""
    summary: str
    """What is its own, in one line."""
    source: str
    """Paper and equation."""
    equation: str
    """Loss of one token, to be minimised, in plain text; `A` is the advantage, `sg` stops the gradient."""
    loss: Callable[..., Any]
    """`(tokens: Tokens, settings: AlgorithmSection) -> PolicyLossTerms`: a pure function of tensors. What it needs of
    other tokens than those it is given must be named in `needs`."""
    needs: Set[Need] = frozenset()
    defaults: Mapping[str, Any] = field(default_factory=dict)
    """Fields of `algorithm` whose default is another than GRPO's: the paper's values."""
    fixed: Mapping[str, Fixed] = field(default_factory=dict)
    """Fields of `algorithm` that cannot be set otherwise."""
    options: Mapping[str, Option] = field(default_factory=dict)
    """Numbers that only this objective has."""
    critic: Mapping[str, Any] = field(default_factory=dict)
    """Fields of the section `critic` whose default is another than PPO's."""
    update: Literal["adamw", "trust-region"] = "adamw"
    """What becomes of the gradient."""
    notes: str = ""
    """What of the paper is set elsewhere, and what is not there."""

    @property
    def usual_options(self) -> Mapping[str, Option]:
        """Its own, and those of the advantage that is its default."""
        return {**ADVANTAGES[self.defaults.get("advantage", "std")].options, **self.options}


class Correction(NamedTuple):
    """A weight w = p_trainer / p_engine: for an engine whose numbers differ from the trainer's, or that sampled with an
    earlier policy.
    """

    weight: str
    """What a token's policy loss is multiplied by."""
    source: str
    sequence: bool
    """Whether the ratio is that of the whole completion, the product over its tokens."""
    drops: bool
    """Whether a weight outside the bounds becomes 0; else it is held at the cap."""
    cap: float
    """Default of `correction_cap`."""
    floor: float | None = None
    """Default of `correction_floor`; None: the correction has no lower bound."""


CORRECTIONS: Mapping[str, Correction] = {
    "tis": Correction(
        "min(w, cap), w of the token",
        "truncated importance sampling: Yao et al. 2025, Your Efficient RL Framework Secretly Brings You Off-Policy RL "
        "Training",
        sequence=False,
        drops=False,
        cap=2.0,
    ),
    "sequence-tis": Correction(
        "min(w, cap), w of the completion",
        "as `tis`, with the ratio of whole sequences: Liu et al. 2025, When Speed Kills Stability",
        sequence=True,
        drops=False,
        cap=2.0,
    ),
    "mask": Correction(
        "w where floor <= w <= cap, else 0; w of the token",
        "IcePop: Ring-1T (arXiv 2510.18855)",
        sequence=False,
        drops=True,
        cap=5.0,
        floor=0.5,
    ),
    "sequence-mask": Correction(
        "w where floor <= w <= cap, else 0; w of the completion",
        "masked importance sampling: Liu et al. 2025, When Speed Kills Stability",
        sequence=True,
        drops=True,
        cap=2.0,
        floor=0.0,
    ),
}
"""Corrections by the value of `algorithm.correction`. Caps and floors are defaults; a recipe may set others."""

KL_ESTIMATORS: Mapping[str, tuple[str, str, str]] = {
    "k1": (
        "log p - log p_ref",
        "(log p - log p_ref) * grad log p",
        "unbiased for the gradient of KL(policy || reference), the same as k2's. The derivative of the value itself is "
        "grad log p, whose mean is 0: it would teach nothing",
    ),
    "k2": (
        "(log p - log p_ref)^2 / 2",
        "(log p - log p_ref) * grad log p",
        "unbiased for the gradient of KL(policy || reference)",
    ),
    "k3": (
        "p_ref / p - 1 - log(p_ref / p)",
        "(1 - p_ref / p) * grad log p",
        "unbiased for the gradient of KL(reference || policy), not of KL(policy || reference); GRPO's",
    ),
    "unbiased-k3": (
        "p / p_old * (p_ref / p - 1 - log(p_ref / p))",
        "p / p_old * (log p - log p_ref) * grad log p",
        "unbiased for the gradient of KL(policy || reference), in later updates of a batch too, since the ratio makes "
        "up for the difference; DeepSeek-V3.2's (arXiv 2512.02556, section 3.1)",
    ),
}
"""Estimators of the KL by the value of `algorithm.kl`: value, gradient of the penalty, and what that gradient is the
estimate of where the policy itself sampled the tokens."""


@cache
def objectives() -> Mapping[str, Objective]:
    """Every objective by name: those of the package, then those of other installed packages."""
    return registered("rethink.algorithms.objectives", ENTRY_POINTS, Objective, "an objective")


def objective_named(name: str) -> Objective:
    """The objective of that name.

    Raises:
        RecipeError: there is none.
    """
    return named(name, objectives())


def named(name: str, known: Mapping[str, Named]) -> Named:
    """The objective of that name among those that are known.

    Raises:
        RecipeError: there is none.
    """
    found = known.get(name)
    if found is None:
        near = difflib.get_close_matches(name, known, n=1)
        listed = ", ".join(f"`{one}`" for one in known)
        hint = f" Write `algorithm.type={near[0]}`." if near else ""
        raise RecipeError(
            f"`algorithm.type` is `{name}`; allowed are {listed} (`rethink algorithms` says what each is).{hint}"
        )
    return found


def resolve(name: str, given: Mapping[str, Any], plain: Mapping[str, Any]) -> dict[str, Any]:
    """All fields of `algorithm`: what is given, and the objective's defaults for the rest.

    Args:
        name: of the objective.
        given: fields that the recipe sets.
        plain: defaults of all fields, which hold where the objective has none.

    Raises:
        RecipeError: the objective is unknown or needs what is not available, a field cannot be set with it or with the
            correction, or an option is unknown or out of bounds.
    """
    objective = objective_named(name)
    only = {key: fixed.value for key, fixed in objective.fixed.items()}
    for key, fixed in objective.fixed.items():
        if key in given and given[key] != fixed.value:
            raise RecipeError(
                f"`algorithm.{key}` is `{_typed(given[key])}`, which cannot be set with `algorithm.type={name}`: "
                f"{fixed.why}. Remove it (it is `{_typed(fixed.value)}`), or choose another type."
            )
    values = {**plain, **objective.defaults, **only, **given}
    if values["aggregation"] != "fixed" and "fixed_denominator" not in given:
        values["fixed_denominator"] = None
    values |= _bounds_of_correction(values)
    return values | {"options": _options(objective, values)}


def _bounds_of_correction(values: Mapping[str, Any]) -> dict[str, Any]:
    """`correction_cap` and `correction_floor`, with the correction's defaults where they are not set."""
    name, cap, floor = (values[key] for key in ("correction", "correction_cap", "correction_floor"))
    correction = CORRECTIONS.get(name)
    if correction is None or correction.floor is None:
        unread = {"correction_floor": floor} if correction else {"correction_cap": cap, "correction_floor": floor}
        for key, value in unread.items():
            if value is not None:
                readers = [k for k, c in CORRECTIONS.items() if key == "correction_cap" or c.floor is not None]
                raise RecipeError(
                    f"`algorithm.{key}` is {value:g}, but `algorithm.correction` is `{name}` and does not use it. "
                    f"Remove it, or set `algorithm.correction` to {' or '.join(f'`{k}`' for k in readers)}."
                )
    if correction is None:
        return {}
    cap, floor = correction.cap if cap is None else cap, correction.floor if floor is None else floor
    if floor is not None and floor >= cap:
        raise RecipeError(
            f"`algorithm.correction_floor` {floor:g} is not below `algorithm.correction_cap` {cap:g}, so no weight "
            f"would be kept. The defaults of `{name}` are {correction.floor:g} and {correction.cap:g}."
        )
    return {"correction_cap": cap, "correction_floor": floor}


def _options(objective: Objective, values: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of the objective and of all that it is combined with."""
    known = {**ADVANTAGES[values["advantage"]].options, **objective.options}
    known |= {} if values["kl_target"] is None else CONTROLLER
    known |= {} if values["covariance"] == "none" else COVARIANCES[values["covariance"]].options
    of = f"`algorithm.type={objective.name}`, nor of what it is combined with (`algorithm.advantage="
    return options_of(f"{of}{values['advantage']}`, …)", known, values["options"])


def options_of(of: str, known: Mapping[str, Option], given: Mapping[str, float]) -> dict[str, float]:
    """All options: what is given, and defaults for the rest.

    Args:
        of: what has them, for messages.
        known: those that there are.
        given: in the recipe.

    Raises:
        RecipeError: an option is unknown or out of bounds.
    """
    for key, value in given.items():
        option = known.get(key)
        if option is None:
            has = ", ".join(f"`{name}`" for name in known) or "none"
            raise RecipeError(f"`algorithm.options.{key}` is no option of {of}. There are: {has}.")
        if not option.takes(value):
            raise RecipeError(
                f"`algorithm.options.{key}` is {value:g}; allowed is {option.allowed()} ({option.meaning}). "
                f"The default is {option.default:g}."
            )
    return {key: given.get(key, option.default) for key, option in known.items()}


def _typed(value: Any) -> str:
    return "null" if value is None else str(value)
