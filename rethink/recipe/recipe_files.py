"""From a YAML file and `key=value` overrides to a recipe of its kind, and back.

YAML is read as in `yaml_text.py`. Types are strict: `"8"` is not 8.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError

from rethink.errors import RecipeError
from rethink.reading import read_bounded_text
from rethink.recipe.base import AnyRecipe
from rethink.recipe.explain import explain
from rethink.recipe.fields import Segment, annotation_at, field_at, is_text, plain, set_by_default
from rethink.recipe.kind import kind_of
from rethink.recipe.schema import Section
from rethink.recipe.yaml_text import MOST_BYTES, RecipeDumper, load_yaml

PACKAGE = Path(__file__).resolve().parents[1]

S = TypeVar("S", bound=Section)


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> AnyRecipe:
    """Read, override and check a recipe; its `kind` decides the type.

    Args:
        path: a YAML file, or the name of a shipped recipe (`quickstart`, `paper/r1-zero`).
        overrides: `dotted.key=value`, applied in order; the value is YAML, or plain text where the field is text. An
            entry of a list goes by its index: `tasks.0.params.max_terms=3`.

    Raises:
        RecipeError: there is no such file, it is not YAML, or a value is unknown, of the wrong type or degenerate.
    """
    file = find_recipe(path)
    if file.suffix in (".jsonl", ".parquet", ".csv"):
        raise RecipeError(
            f"`{path}` is data, not a recipe. A recipe is a YAML file that names it, under `tasks` (problems: `kind: "
            f"jsonl`, `name: {path}`) or under `data` (conversations); README.md has an example."
        )
    try:
        text = read_bounded_text(file, MOST_BYTES)
    except (OSError, ValueError) as error:
        raise RecipeError(f"The recipe {file} cannot be read: {error}.") from error
    return parse_recipe(text, f"The recipe `{path}`", overrides)


def parse_recipe(text: str, origin: str, overrides: Sequence[str] = ()) -> AnyRecipe:
    """As `load_recipe`, from the YAML text itself; `origin` names it in errors (`The recipe …`)."""
    data = _read_yaml(text, origin)
    if not isinstance(data, dict):
        raise RecipeError(f"{origin} holds no recipe: its top level must be `key: value` lines, such as `steps: 100`.")
    try:
        model = _kind(data, overrides)
    except RecipeError as error:
        raise RecipeError(f"{origin} cannot be used. {error}") from None
    for override in overrides:
        _apply(data, override, model)
    return _validated(data, origin, model)


def load_section(path: Path, model: type[S]) -> S:
    """Read a file that holds one section: a cluster file, say.

    Raises:
        RecipeError: it cannot be read, is not YAML, or a value is unknown, of the wrong type or degenerate.
    """
    try:
        data = _read_yaml(read_bounded_text(path, MOST_BYTES), f"`{path}`") or {}
    except (OSError, ValueError) as error:
        raise RecipeError(f"`{path}` cannot be read: {error}.") from error
    if not isinstance(data, dict):
        raise RecipeError(f"`{path}` holds no `key: value` lines.")
    return _validated(data, f"`{path}`", model)


def _validated(data: dict[Any, Any], origin: str, model: type[S]) -> S:
    try:
        return model.model_validate_json(json.dumps(data, default=str), strict=True)
    except ValidationError as error:
        raise RecipeError(f"{origin} cannot be used. {explain(error, data, model)}") from None
    except (RecursionError, TypeError, ValueError) as error:
        raise RecipeError(f"{origin} cannot be used: {error}. A recipe is plain YAML without cyclic anchors.") from None
    except RecipeError as error:
        raise RecipeError(f"{origin} cannot be used. {error}") from None


def _kind(data: dict[Any, Any], overrides: Sequence[str]) -> type[AnyRecipe]:
    """The type of the recipe, which an override `kind=…` may change."""
    given = [text for path, _, text in (override.partition("=") for override in overrides) if path.strip() == "kind"]
    return kind_of({**data, "kind": given[-1].strip()} if given else data).model


def find_recipe(path: str | Path) -> Path:
    """The file of a path or of the name of a shipped recipe.

    Raises:
        RecipeError: neither is there; the message names what ships.
    """
    given = Path(path)
    if given.is_file():
        return given
    shipped = shipped_recipes()
    name = str(path).removesuffix(".yaml")
    if name in shipped:
        return shipped[name]
    near = difflib.get_close_matches(name, shipped, n=1)
    hint = f" Did you mean `{near[0]}`?" if near else ""
    what = "is a folder, not a recipe" if given.is_dir() else "is neither a file here nor a recipe that ships"
    raise RecipeError(f"`{path}` {what}.{hint} Give the path of a YAML file, or one of: {', '.join(shipped)}.")


def shipped_recipes() -> dict[str, Path]:
    """Files of the shipped recipes by name (`paper/r1-zero`): in the wheel, or beside the package in a checkout."""
    folder = PACKAGE / "_recipes"
    if not folder.is_dir():
        folder = PACKAGE.parent / "recipes"
    files = sorted(folder.rglob("*.yaml"))
    return {file.relative_to(folder).with_suffix("").as_posix(): file for file in files}


def recipe_to_yaml(recipe: AnyRecipe) -> str:
    """The whole recipe, defaults included, as YAML that `load_recipe` reads back to an equal one."""
    return yaml.dump(plain(recipe), Dumper=RecipeDumper, sort_keys=False, allow_unicode=True, width=110)


def _read_yaml(text: str, origin: str) -> Any:
    try:
        return load_yaml(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" in line {mark.line + 1}, column {mark.column + 1}" if mark is not None else ""
        problem = getattr(error, "problem", None) or str(error)
        raise RecipeError(
            f"{origin} is not YAML{where}: {problem}. Check the indentation and the quotes there: text with `: `, `#`, "
            "`{` or `[` must be quoted."
        ) from None
    except RecipeError as error:
        raise RecipeError(f"{origin}: {error}") from None


def _apply(data: dict[Any, Any], override: str, model: type[Section]) -> None:
    """Set one `dotted.key=value` in the raw recipe, making the sections on the way from their defaults."""
    path, equals, text = override.partition("=")
    segments = path.strip().split(".")
    if not equals or not all(segments):
        raise RecipeError(
            f"`{override}` is not an override: write `key=value`, such as `optimizer.learning_rate=2e-5`."
        )
    node: Any = data
    for position, segment in enumerate(segments[:-1]):
        key = _key(node, segment, segments[: position + 1], override)
        missing = isinstance(node, dict) and node.get(key) is None
        if missing:
            info = field_at(model, segments[: position + 1])
            node[key] = (set_by_default(info) if info is not None else None) or {}
        node = node[key]
    node[_key(node, segments[-1], segments, override)] = _value(segments, text, override, model)


def _key(node: Any, segment: str, path: Sequence[str], override: str) -> Segment:
    """The key or index that a segment means in a mapping or list."""
    if isinstance(node, dict):
        return next((key for key in node if str(key) == segment), segment)
    where = ".".join(path[:-1])
    if not isinstance(node, list):
        raise RecipeError(f"`{override}`: `{where}` is a single value and has no `{segment}` in it.")
    if not segment.isdecimal() or int(segment) >= len(node):
        have = f"0 to {len(node) - 1}" if node else "none, the list is empty"
        first = (
            f"For the first write `{where}.0{override.removeprefix(where)}`. "
            if node and segment.isidentifier()
            else ""
        )
        raise RecipeError(
            f"`{override}`: `{where}` is a list, whose entries go by index ({have}); `{segment}` is not one. {first}To "
            f"replace the whole list write `{where}=[…]`."
        )
    return int(segment)


def _value(segments: Sequence[str], text: str, override: str, model: type[Section]) -> Any:
    """The value as YAML; unchanged if the field is text, so that braces and colons need no quotes."""
    text_field = is_text(annotation_at(model, segments))
    try:
        value = load_yaml(text)
    except yaml.YAMLError as error:
        if text_field:
            return text
        raise RecipeError(f"`{override}`: the value is not YAML: {getattr(error, 'problem', error)}.") from None
    return text if text_field and value is not None and not isinstance(value, str) else value
