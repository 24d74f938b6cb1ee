"""What the schema says of its fields, in words: for error messages and for the reference in docs/recipe.md."""

from __future__ import annotations

import types
import typing
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel
from pydantic.fields import FieldInfo

Segment = str | int


@dataclass(frozen=True, slots=True)
class RecipeField:
    """One key that a recipe may hold."""

    path: str
    """Dotted, with `N` for an index: `tasks.N.weight`."""
    info: FieldInfo
    """Pydantic's description: annotation, bounds, default, docstring."""

    @property
    def name(self) -> str:
        """Last segment of the path."""
        return self.path.rpartition(".")[2]


def walk_fields(model: type[BaseModel], prefix: str = "") -> Iterator[RecipeField]:
    """Every field of a section and of the sections below it, each section before its own fields."""
    for name, info in model.model_fields.items():
        yield RecipeField(prefix + name, info)
        nested = section_of(info.annotation)
        if nested is not None:
            index = "N." if is_list(info.annotation) else ""
            yield from walk_fields(nested, f"{prefix}{name}.{index}")


def section_of(annotation: Any) -> type[BaseModel] | None:
    """The section that an annotation holds: `Section`, `Section | None`, `tuple[Section, ...]`; else None."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for argument in typing.get_args(annotation):
        found = section_of(argument)
        if found is not None:
            return found
    return None


def is_list(annotation: Any) -> bool:
    """Whether the annotation is a list of values (a tuple of any length)."""
    return any(typing.get_origin(choice) is tuple for choice in _choices(annotation))


def annotation_at(model: type[BaseModel], segments: Sequence[Segment]) -> Any:
    """Annotation of the field that a path leads to; None where the schema has no such field."""
    annotation: Any = model
    for segment in segments:
        annotation = _step(annotation, str(segment))
        if annotation is None:
            return None
    return annotation


def field_at(model: type[BaseModel], segments: Sequence[Segment]) -> FieldInfo | None:
    """The last named field on a path; None where the path leaves the schema."""
    found = None
    annotation: Any = model
    for segment in segments:
        section = section_of(annotation)
        if section is not None and not str(segment).isdigit():
            found = section.model_fields.get(str(segment))
        annotation = _step(annotation, str(segment))
        if annotation is None:
            return None
    return found


def is_text(annotation: Any) -> bool:
    """Whether the field is text (or null)."""
    return str in _choices(annotation)


def describe(info: FieldInfo) -> str:
    """What a field accepts, in words: `a whole number above 0, or null`."""
    return describe_annotation(info.annotation, info.metadata)


def describe_annotation(annotation: Any, metadata: Sequence[Any] = ()) -> str:
    """As `describe`, for an annotation and its bounds."""
    choices = [choice for choice in _choices(annotation) if choice is not type(None)]
    words = [_one(choice, _bounds(metadata)) for choice in choices]
    if type(None) in _choices(annotation):
        words.append("null")
    least = next((item.min_length for item in metadata if getattr(item, "min_length", None)), None)
    if least is not None:
        words.append(f"with at least {least} of them")
        return ", ".join(words)
    return ", or ".join(words)


def default_of(info: FieldInfo) -> Any:
    """The default as plain data (sections as dictionaries, tuples as lists); None where the field is required."""
    default = info.get_default(call_default_factory=True)
    return plain(default) if not info.is_required() else None


def set_by_default(info: FieldInfo) -> Any:
    """As `default_of`, of a section only what differs from its own defaults: these may depend on what is set later."""
    default = info.get_default(call_default_factory=True)
    return plain(default.model_dump(exclude_unset=True)) if isinstance(default, BaseModel) else default_of(info)


def plain(value: Any, without: Sequence[Any] = ()) -> Any:
    """Sections and tuples as dictionaries and lists, all the way down; keys and values as they are.

    Args:
        value: of a recipe.
        without: marks (`Counts`); fields that have one of them are left out.
    """
    if isinstance(value, BaseModel):
        fields = type(value).model_fields.items()
        return {n: plain(getattr(value, n), without) for n, i in fields if not any(m in i.metadata for m in without)}
    if isinstance(value, dict):
        return {key: plain(item, without) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item, without) for item in value]
    return value


def _choices(annotation: Any) -> tuple[Any, ...]:
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return typing.get_args(annotation)
    return (annotation,)


def _step(annotation: Any, segment: str) -> Any:
    """Annotation one segment further down."""
    for choice in _choices(annotation):
        if isinstance(choice, type) and issubclass(choice, BaseModel):
            info = choice.model_fields.get(segment)
            return None if info is None else info.annotation
        origin, arguments = typing.get_origin(choice), typing.get_args(choice)
        if origin is tuple and segment.isdigit():
            return arguments[0]
        if origin is dict:
            return arguments[1]
    return None


def _one(annotation: Any, bounds: str) -> str:
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Literal:
        return _or([f"`{value}`" for value in arguments])
    if origin is tuple:
        return f"a list, each entry {_one(arguments[0], '')}"
    if origin is dict:
        key = "step" if arguments[0] is int else "name"
        return f"a mapping {{{key}: {_one(arguments[1], bounds)}}}"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "a section"
    words = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
    return f"{words.get(annotation, 'any value')}{bounds}"


def _bounds(metadata: Sequence[Any]) -> str:
    words = []
    for name, word in [("gt", "above"), ("ge", "at least"), ("lt", "below"), ("le", "at most")]:
        words += [f"{word} {getattr(item, name)}" for item in metadata if getattr(item, name, None) is not None]
    if any(getattr(item, "pattern", None) for item in metadata):
        words.append("of letters, digits, `.`, `_` and `-`, not beginning with a sign")
    return f" {' and '.join(words)}" if words else ""


def _or(words: Sequence[str]) -> str:
    return " or ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else words[0]
