"""Making built-in rewards from their records (`rethink/recipe/reward.py`), with their options checked."""

from __future__ import annotations

import difflib
import importlib
import inspect
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from rethink.errors import RecipeError
from rethink.recipe.reward import rewards
from rethink.rewards.extract import AnswerRule
from rethink.rewards.outcome import PartFunction


@dataclass(frozen=True, slots=True)
class PartContext:
    """What a part may need beside its options."""

    answer: AnswerRule = "answer-tag"
    """Where the answer of a completion is found."""
    judges: Mapping[str, Mapping[str, Any]] | None = None
    """How answers are checked, by task name: see `rethink.tasks.judging`."""
    dtype: str = "float32"
    """What a model computes in."""
    device: str = "cpu"
    """Where a model computes."""


def make_part(name: str, params: Mapping[str, Any], context: PartContext, field: str) -> PartFunction:
    """Build a part.

    Args:
        name: of its record.
        params: its options.
        context: what the run offers.
        field: where the part is named, for messages, e.g. `reward.parts.1`.

    Raises:
        RecipeError: no such part, an option it does not have (with the nearest), or a value it does not take.
    """
    record = rewards().get(name)
    if record is None:
        raise RecipeError(f"{field} is `{name}`, which is not built in; {nearest(name, rewards())}")
    module, _, function = record.factory.partition(":")
    factory: Callable[..., PartFunction] = getattr(importlib.import_module(module), function)
    options = check_options(factory, name, params, field)
    try:
        return factory(context, **options)
    except ValueError as error:
        raise RecipeError(f"{field}.params: {error} (for the part `{name}`)") from error


def check_options(factory: Callable[..., Any], name: str, params: Mapping[str, Any], field: str) -> dict[str, Any]:
    """The options of a part, checked against the keyword-only parameters of its factory.

    A factory with many takes them as one section, its parameter `options`.

    Raises:
        RecipeError: an unknown option, a missing one, or a value of another type.
    """
    from pydantic import BaseModel, ConfigDict, ValidationError, create_model

    hints = typing.get_type_hints(factory, include_extras=True)
    parameters = inspect.signature(factory).parameters.values()
    options: dict[str, Any] = {p.name: p for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY}
    section = hints.get("options")
    if section is not None:
        options = section.model_fields
    unknown = [key for key in params if key not in options]
    if unknown:
        takes = f"{nearest(unknown[0], options)}" if options else "it takes no options"
        raise RecipeError(f"{field}.params: the part `{name}` has no option `{unknown[0]}`; {takes}")
    if section is None:
        fields: dict[str, Any] = {
            key: (hints[key], ... if p.default is inspect.Parameter.empty else p.default) for key, p in options.items()
        }
        config = ConfigDict(strict=False, allow_inf_nan=False, arbitrary_types_allowed=True)
        model: type[BaseModel] = create_model("Options", __config__=config, **fields)
    else:
        model = section
    try:
        checked = model(**params)
    except ValidationError as error:
        first = error.errors()[0]
        option = ".".join(map(str, first["loc"])) or "options"
        said = first["msg"].removeprefix("Value error, ")
        raise RecipeError(f"{field}.params.{option}: {said} (for the part `{name}`)") from error
    return {"options": checked} if section is not None else {key: getattr(checked, key) for key in options}


def nearest(word: str, known: Mapping[str, Any] | typing.Iterable[str]) -> str:
    """`did you mean …? It has …`, for messages."""
    names = sorted(known)
    near = difflib.get_close_matches(word, names, n=1, cutoff=0.5)
    hint = f"did you mean `{near[0]}`? " if near else ""
    return f"{hint}There {'are' if len(names) > 1 else 'is'} {', '.join(f'`{n}`' for n in names)}"
