"""The kinds of recipe, by the value of `kind`: what a file without that key holds is `grpo`.

A new kind is a class beside the others (a `Section` with `name`, `kind`, `description` and the `FREE` fields that may
change on resume), one line in `RECIPE_KINDS`, and one in `rethink/cli/kinds.py`, which says who runs it.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any, TypeVar

from rethink.errors import RecipeError
from rethink.kinds.eval.recipe import EvalRecipe
from rethink.kinds.pipeline.recipe import DistillRecipe, PipelineRecipe
from rethink.kinds.reward_model.recipe import RewardModelRecipe
from rethink.kinds.samples.recipe import CurateRecipe
from rethink.kinds.sft.recipe import SFTRecipe
from rethink.recipe.schema import Recipe, Section

AnyRecipe = Recipe | SFTRecipe | CurateRecipe | RewardModelRecipe | EvalRecipe | PipelineRecipe | DistillRecipe
"""What `load_recipe` returns; tell them apart by type, or narrow with `of_kind`."""

RECIPE_KINDS: dict[str, type[AnyRecipe]] = {
    "grpo": Recipe,
    "sft": SFTRecipe,
    "samples": CurateRecipe,
    "reward-model": RewardModelRecipe,
    "eval": EvalRecipe,
    "pipeline": PipelineRecipe,
    "distill": DistillRecipe,
}
"""The class of each kind."""

DEFAULT_KIND = "grpo"
"""Of a recipe that names none."""

R = TypeVar("R", bound=Section)


def kind_of(data: Mapping[Any, Any]) -> type[AnyRecipe]:
    """The class that a raw recipe's `kind` stands for.

    Raises:
        RecipeError: there is no such kind.
    """
    given = data.get("kind", DEFAULT_KIND)
    found = RECIPE_KINDS.get(given) if isinstance(given, str) else None
    if found is None:
        near = (difflib.get_close_matches(str(given), RECIPE_KINDS, n=1) or [DEFAULT_KIND])[0]
        raise RecipeError(
            f"`kind` is {given!r}; allowed is {_listed(RECIPE_KINDS)}, and none at all means `{DEFAULT_KIND}`. Write "
            f"`kind: {near}`."
        )
    return found


def of_kind(recipe: AnyRecipe, wanted: type[R], what: str) -> R:
    """The recipe itself, where it is of the kind that `what` (a command, say) takes.

    Raises:
        RecipeError: it is of another kind; the message says which one is taken.
    """
    if isinstance(recipe, wanted):
        return recipe
    takes = next((kind for kind, model in RECIPE_KINDS.items() if model is wanted), wanted.__name__)
    raise RecipeError(
        f"{what} takes recipes of the kind `{takes}`, but `{recipe.name}` is of the kind `{recipe.kind}`. Give one of "
        f"the kind `{takes}`; `rethink train` runs recipes of every kind."
    )


def _listed(words: Mapping[str, object]) -> str:
    return " or ".join(f"`{word}`" for word in words)
