"""The record of a kind of run, in the kind's folder under `rethink/kinds/` or in your own package.

    rethink/kinds/NAME/__init__.py   KIND = Kind(name=…, recipe="module:Class", run="module:function", …)

Nothing else knows the name of a kind: `kinds()` finds the folders, and the entry points `rethink.kinds` of installed
packages. Functions are named as `module:attribute` and imported when they are called, so that `rethink --help` stays
quick.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, TypeVar

from rethink.errors import RecipeError
from rethink.recipe.base import AnyRecipe
from rethink.recipe.registry import registered

ENTRY_POINTS = "rethink.kinds"
"""Group under which an installed package names its own kinds: `toy = "my_package.toy:KIND"`."""
DEFAULT_KIND = "grpo"
"""Of a recipe that names none."""

R = TypeVar("R", bound=AnyRecipe)


@dataclass(frozen=True, slots=True)
class Drawn:
    """What a stage that samples leaves at most, for planning the stages that read it."""

    problems: int
    per_problem: int
    """Samples of each problem."""
    kept_per_problem: int
    max_new_tokens: int
    """Most tokens of a sample."""
    talk_share: float = 0.0
    """Share of conversations without reasoning in what is left."""
    talk_tokens: int = 0
    """Most tokens of such a conversation's answer."""


@dataclass(frozen=True, slots=True)
class Planned:
    """What `--dry-run` shows of a recipe."""

    facts: Mapping[str, Any]
    """What `--json` adds to the recipe and its hash."""
    text: str
    """The same for people."""
    whole_recipe: bool = True
    """Whether people are shown the resolved recipe before it."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of run. Fields of the form `module:attribute` name functions; None: the kind has no such thing."""

    name: str
    """The value of `kind` in a recipe."""
    version: int
    """Part of the hash of its runs and stages (`identity.py`). Raise it by hand when the same recipe would mean other
    results, so that what was done before is not taken for what would be done now: not for each change of the code, but
    always when a default changes, since a field at its default is not in the hash (`dev/defaults.py` says so)."""
    summary: str
    """What it does, in one line."""
    recipe: str
    """The recipe's class, an `AnyRecipe`."""
    run: str
    """`(recipe, out: Path, *, resume: bool, progress: Progress) -> summary`; `summary["finished"]` is False after
    Ctrl-C. A kind with `stages` also takes `selection`."""
    plan: str | None = None
    """`(recipe) -> Planned`, for `--dry-run`. A kind with `stages` also takes `out` and `selection`."""
    show: str = "rethink.kinds.closing:show_places"
    """`(summary, out: Path) -> None`: what the terminal says after a run that finished."""
    outputs: Mapping[str, str] = field(default_factory=dict)
    """What a stage of this kind leaves for others: name in `${STAGE.NAME}`, path in its folder. None at all: it cannot
    be a stage by itself."""
    stages: str | None = None
    """`(recipe) -> PipelineRecipe`: of a kind that is made of stages."""
    parts: str | None = None
    """`(name, stage, data) -> dict of Stage by name`: of a kind that, as a stage, stands for several."""
    lanes: str | None = None
    """`runs.lanes.Lanes`: how trainer ranks share its steps; None: they cannot."""
    trains: bool = False
    """Whether it trains a model, which it leaves as `model` and whose checkpoints take disk space. Its metrics have a
    row for each step, from 0, which is before the first."""
    samples: bool = False
    """Whether it generates completions, which cost compute."""
    evaluated: bool = False
    """Whether its model is a policy, which a pipeline's `evaluation` measures."""
    measures: bool = False
    """Whether its results are what a pipeline compares its models by."""
    costs: str | None = None
    """`(recipe, shape, drawn, rates) -> Costs`: what a pipeline's plan says of a stage; `drawn(path)` is what the stage
    that makes a file leaves there at most."""
    drawn: str | None = None
    """`(recipe) -> Drawn | None`: what a stage leaves, for the costs of those behind it."""
    keeps: str | None = None
    """`(recipe) -> (models that it leaves, bytes a parameter in a checkpoint beside the optimizer's)`; None: one model
    and nothing more, where it `trains`."""
    samples_elsewhere: str | None = None
    """`(recipe) -> bool`: whether the model is none of this machine (an endpoint), so that its compute is unknown."""
    said: str | None = None
    """`(summary) -> str`: a few words for a pipeline's view."""
    checked: str | None = None
    """`(recipe: AskingRecipe) -> Examined | None`: how what `rethink check` examines is sampled."""
    charts: str | None = None
    """Plans of the charts that only runs of this kind have."""
    sections: str | None = None
    """`(report data) -> HTML`: sections of the report that only runs of this kind have."""
    counts_data: bool = False
    """Whether its summary counts data that it made or read, which a pipeline's report shows."""
    rollouts: bool = False
    """Whether a run keeps rollouts, which the report shows."""
    card: str = ""
    """How the model was trained, for its card; `{objective}` becomes the recipe's objective and its source."""

    def load(self, name: str) -> Any:
        """The class, function or value that one of the fields names.

        Args:
            name: of a field that is not None.
        """
        module, _, attribute = str(getattr(self, name)).partition(":")
        return getattr(importlib.import_module(module), attribute)

    @property
    def model(self) -> type[AnyRecipe]:
        """The recipe's class."""
        found: type[AnyRecipe] = self.load("recipe")
        return found


@cache
def kinds() -> Mapping[str, Kind]:
    """Every kind by name: those of the package, then those of other installed packages."""
    return registered("rethink.kinds", ENTRY_POINTS, Kind, "a kind of run")


def kind_named(name: Any) -> Kind:
    """The kind of that name.

    Raises:
        RecipeError: there is none.
    """
    found = kinds().get(name) if isinstance(name, str) else None
    if found is None:
        near = (difflib.get_close_matches(str(name), kinds(), n=1) or [DEFAULT_KIND])[0]
        raise RecipeError(
            f"`kind` is {name!r}; allowed is {listed(kinds())}, and none at all means `{DEFAULT_KIND}`. Write "
            f"`kind: {near}`."
        )
    return found


def kind_of(data: Mapping[Any, Any]) -> Kind:
    """The kind of a raw recipe.

    Raises:
        RecipeError: there is no such kind.
    """
    return kind_named(data.get("kind", DEFAULT_KIND))


def of_kind(recipe: AnyRecipe, wanted: type[R], what: str) -> R:
    """The recipe itself, where it is of the kind that `what` (a command, say) takes.

    Raises:
        RecipeError: it is of another kind; the message says which one is taken.
    """
    if isinstance(recipe, wanted):
        return recipe
    takes = wanted.model_fields["kind"].default
    raise RecipeError(
        f"{what} takes recipes of the kind `{takes}`, but `{recipe.name}` is of the kind `{recipe.kind}`. Give one of "
        f"the kind `{takes}`; `rethink train` runs recipes of every kind."
    )


def listed(words: Iterable[str]) -> str:
    """Words as a choice: `a` or `b`."""
    return " or ".join(f"`{word}`" for word in words)
