"""What is said of a toy run, before and after."""

from pathlib import Path
from typing import Any

from rethink.observe.report.panels import ChartPlan
from rethink.plan.costs import Costs
from rethink.recipe.kind import Planned
from rethink.recipe.schema import RolloutSection
from rethink.runs.examined import Examined
from toy_kind.recipe import ToyRecipe

CHARTS = (ChartPlan("Loss of the toy", (("toy/loss", "loss"),)),)


def plan(recipe: ToyRecipe) -> Planned:
    return Planned({"copies": recipe.steps}, f"Copies in {recipe.steps} steps.")


def costs(recipe: ToyRecipe, *_: Any) -> Costs:
    return Costs(tokens=float(recipe.steps), flops=7.0, disk_bytes=5)


def keeps(_: ToyRecipe) -> tuple[int, int]:
    return 3, 2


def show(summary: dict[str, Any], out: Path) -> None:
    print(f"copied in {summary['steps']} steps into {out}")


def said(summary: dict[str, Any]) -> str:
    return f"{summary['steps']} copies"


def checked(recipe: ToyRecipe) -> Examined | None:
    return Examined(RolloutSection()) if recipe.tasks else None
