"""Stages that use each other's outputs, as a recipe writes them.

A stage's recipe is that of its kind, written in place. Two things are put into its text before it is read:

    ${vars.NAME}        a value of `vars`: any value where it stands alone, text inside other text
    ${STAGE.OUTPUT}     the path of what another stage leaves (`outputs` of its kind); this also orders the stages

`stages.py` does both, and makes plain stages of those that stand for several (a distillation, rounds) and of
`evaluation`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import Field

from rethink.recipe.base import AnyRecipe
from rethink.recipe.schema import Section


class Stage(Section):
    """One stage."""

    kind: str
    """What it does: a kind that can be a stage, see `stages.py`."""
    recipe: dict[str, Any] = Field(default_factory=dict)
    """A recipe of that kind without `name` and `kind`. `seed`, `threads` and `device` are the pipeline's where it has
    none of its own."""
    description: str = ""
    """One sentence for the report."""


@dataclass(frozen=True, slots=True)
class Parts:
    """The plain stages that a stage of another kind stands for."""

    stages: Mapping[str, Stage]
    """By name."""
    base: str = ""
    """Path of the model that the others are compared with; empty: they are not."""
    compared: Mapping[str, str] = field(default_factory=dict)
    """Further rows of the report's comparison: heading, and name of the stage whose model is evaluated; one that is
    not there is left out."""


class StageGraph(AnyRecipe):
    """The fields of a pipeline, before its stages are looked at."""

    vars: dict[str, Any] = Field(default_factory=dict)
    """Values that stages share, used as `${vars.NAME}`."""
    stages: dict[str, Stage] = Field(min_length=1)
    """By name; each may use outputs of others as `${NAME.OUTPUT}`, in whatever order they are written."""
    evaluation: dict[str, Any] | None = None
    """An `eval` recipe without `model`: every model that a stage trains, and those of `evaluated`, answer the same
    held-out problems. None: nothing is measured but what stages measure themselves."""
    evaluated: dict[str, str] = Field(default_factory=dict)
    """Further models to evaluate, by the name that the report gives them."""
