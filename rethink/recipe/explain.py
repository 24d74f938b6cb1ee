"""Why a recipe was refused, in words: what was given, what is allowed, what to type instead."""

from __future__ import annotations

import difflib
import json
from collections.abc import Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from rethink.errors import RecipeError
from rethink.recipe.fields import (
    RecipeField,
    Segment,
    annotation_at,
    default_of,
    describe,
    describe_annotation,
    field_at,
    is_text,
    section_of,
    walk_fields,
)
from rethink.recipe.kind import DEFAULT_KIND

SHOWN = 60
"""Characters of a given value that a message repeats."""

M = TypeVar("M", bound=BaseModel)


def validated(model: type[M], data: dict[str, Any], where: str) -> M:
    """The section that raw data describe.

    Raises:
        RecipeError: they are refused; the message begins with `where`.
    """
    try:
        return model.model_validate_json(json.dumps(data), strict=True)
    except ValidationError as error:
        raise RecipeError(f"{where}: {explain(error, data, model)}") from None
    except RecipeError as error:
        raise RecipeError(f"{where}: {error}") from None


def explain(error: ValidationError, data: Any, model: type[BaseModel]) -> str:
    """One sentence or more for each thing that is wrong with a recipe of the type `model`, each thing once."""
    found: dict[tuple[Segment, ...], str] = {}
    for item in error.errors():
        path = tuple(_path(item["loc"], data, item["type"]))
        if path in found:
            continue
        if item["type"] == "extra_forbidden":
            found[path] = _unknown(path, model)
        elif item["type"] == "missing":
            found[path] = _missing(path, model)
        else:
            found[path] = _wrong(path, _value_at(data, path), model)
    # Where an entry of a list is wrong, pydantic also finds the list too short: say only what is furthest in.
    return " ".join(text for path, text in found.items() if not any(_inside(other, path) for other in found))


def show(value: Any) -> str:
    """A value as it would be typed, shortened."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"


def _inside(path: Sequence[Segment], outer: Sequence[Segment]) -> bool:
    return len(path) > len(outer) and path[: len(outer)] == outer


def _path(location: Sequence[Segment], data: Any, kind: str) -> list[Segment]:
    """The part of pydantic's location that names keys of the recipe; it adds the names of types it tried."""
    path: list[Segment] = []
    node = data
    for segment in location:
        if segment == "[key]":  # the key itself is wrong: say it of the mapping
            return path[:-1]
        if isinstance(node, dict):
            keys = {str(key): key for key in node}
            if str(segment) not in keys:
                if kind == "missing":
                    return [*path, segment]
                continue
            node = node[keys[str(segment)]]
        elif isinstance(node, list) and isinstance(segment, int):
            node = node[segment]
        else:
            break
        path.append(segment)
    return path


def _value_at(data: Any, path: Sequence[Segment]) -> Any:
    for segment in path:
        data = (
            data[int(segment)] if isinstance(data, list) else {str(k): item for k, item in data.items()}[str(segment)]
        )
    return data


def _unknown(path: Sequence[Segment], model: type[BaseModel]) -> str:
    dotted, parent = ".".join(map(str, path)), path[:-1]
    section: type[BaseModel] | None = section_of(annotation_at(model, parent)) if parent else model
    siblings = list(section.model_fields) if section is not None else []
    prefix = "".join(f"{segment}." for segment in parent)
    near = _nearest(str(path[-1]), siblings, prefix, model)
    where = f"keys of `{'.'.join(map(str, parent))}`" if parent else "top-level keys"
    hint = f" Did you mean `{near}`?" if near else ""
    return f"`{dotted}` is not a key of {_recipe(model)}.{hint} The {where} are: {', '.join(siblings)}."


def _recipe(model: type[BaseModel]) -> str:
    if "kind" not in model.model_fields:
        return "this file"
    kind = model.model_fields["kind"].default
    return "a recipe" if kind == DEFAULT_KIND else f"a recipe of the kind `{kind}`"


def _nearest(name: str, siblings: Sequence[str], prefix: str, model: type[BaseModel]) -> str | None:
    """The most likely key: of that name in another section, of a similar name in the same one, of a similar name
    elsewhere.
    """
    elsewhere: dict[str, RecipeField] = {}
    for field in walk_fields(model):
        elsewhere.setdefault(field.name, field)
    near = difflib.get_close_matches(name, siblings, n=1, cutoff=0.7)
    if near and name not in elsewhere:
        return prefix + near[0]
    near = difflib.get_close_matches(name, elsewhere, n=1, cutoff=0.75)
    return elsewhere[near[0]].path.replace(".N.", ".0.") if near else None


def _missing(path: Sequence[Segment], model: type[BaseModel]) -> str:
    info = field_at(model, path)
    meaning = f" ({info.description.rstrip('.')})" if info is not None and info.description else ""
    allowed = f" Allowed: {describe(info)}." if info is not None else ""
    return f"`{'.'.join(map(str, path))}` is missing{meaning}.{allowed}"


def _wrong(path: Sequence[Segment], given: Any, model: type[BaseModel]) -> str:
    dotted = ".".join(map(str, path)) or "the recipe"
    info = field_at(model, path)
    annotation = annotation_at(model, path)
    if info is None or annotation is None:
        return f"`{dotted}` cannot be {show(given)}."
    allowed = describe(info) if annotation == info.annotation else describe_annotation(annotation)
    sentence = f"`{dotted}` is {show(given)}; allowed is {allowed}."
    if is_text(annotation) and not isinstance(given, str):
        hint = 'Write "" for no text' if given is None else "Put text that YAML reads otherwise in quotes"
        return f"{sentence} {hint}."
    choices = [word for word in _literals(annotation) if isinstance(word, str)]
    near = difflib.get_close_matches(str(given), choices, n=1)
    default = default_of(info)
    example = near[0] if near else default
    simple = isinstance(example, (str, int, float)) and annotation == info.annotation
    return f"{sentence} Write, for example, `{dotted}={_typed(example)}`." if simple and example != "" else sentence


def _typed(example: Any) -> str:
    return str(example).lower() if isinstance(example, bool) else str(example)


def _literals(annotation: Any) -> Sequence[Any]:
    return getattr(annotation, "__args__", ())
