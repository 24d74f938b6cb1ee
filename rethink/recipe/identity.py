"""When two recipes are the same run: one hash for runs and stages, and what may change when a run is resumed.

    hash = SHA-256 of (kind, its version, fields that differ from their defaults) - fields that change no result

Fields that change no result are marked at the field (`Counts.NEVER`), and so are those that a resumed run may change
although they count (`Counts.WHEN_NEW`). All else is the run's identity: the seed, and the thread count too, since it
decides the order of sums.

A field at its default is left out, so a new field changes no hash of recipes that do not use it. A default that changes
would change what an equal hash means: then the kind's version is raised. `dev/defaults.json` holds every default beside
the version, and a test compares them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from rethink.recipe.base import AnyRecipe
from rethink.recipe.explain import show
from rethink.recipe.fields import plain
from rethink.recipe.kind import kind_named
from rethink.recipe.schema import Counts


def recipe_hash(recipe: AnyRecipe) -> str:
    """SHA-256 (hex) of what decides a run's results.

    The same run described in another order of keys, with defaults written out or not, has the same hash.
    """
    return hash_of(recipe.kind, differing(recipe))


def hash_of(kind: str, values: Mapping[str, Any]) -> str:
    """SHA-256 (hex) of canonical JSON: a kind with its version, and values of a recipe as `differing` gives them."""
    found = {"kind": kind, "version": kind_named(kind).version, "recipe": values}
    canonical = json.dumps(found, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(canonical.encode()).hexdigest()


def differing(section: BaseModel, default: BaseModel | None = None) -> dict[str, Any]:
    """Fields that differ from their defaults, as JSON takes them, without those that change no result.

    Args:
        section: a recipe or a section.
        default: what the recipe holds in its place by default; None: its class's own defaults count.
    """
    found: dict[str, Any] = {}
    for name, info in type(section).model_fields.items():
        if Counts.NEVER in info.metadata:
            continue
        value = getattr(section, name)
        usual = info.get_default(call_default_factory=True) if default is None else getattr(default, name)
        if isinstance(value, BaseModel) and type(usual) is type(value):
            if inner := differing(value, usual):
                found[name] = inner
        elif (default is None and info.is_required()) or _short(value) != _short(usual):
            found[name] = _short(value)
    return found


def _short(value: Any) -> Any:
    """As `differing`, of any value."""
    if isinstance(value, BaseModel):
        return differing(value)
    if isinstance(value, dict):
        return {key: _short(item) for key, item in value.items()}
    return [_short(item) for item in value] if isinstance(value, (list, tuple)) else value


def resume_differences(old: AnyRecipe, new: AnyRecipe) -> list[str]:
    """What forbids resuming the run of `old` with `new`: a sentence for each value, empty where nothing does."""
    if old.kind != new.kind:
        return [f"`kind` was {show(old.kind)}, the recipe now says {show(new.kind)}"]
    before, after = fixed_values(old), fixed_values(new)
    return [
        f"`{key}` was {show(before[key]) if key in before else 'not set'}, "
        + (f"the recipe now says {show(after[key])}" if key in after else "which the recipe no longer has")
        for key in dict.fromkeys([*before, *after])
        if before.get(key, _ABSENT) != after.get(key, _ABSENT)
    ]


_ABSENT = object()


def fixed_values(recipe: AnyRecipe) -> dict[str, Any]:
    """All values that a resumed run must not change, defaults too, by dotted path."""
    return leaves(plain(recipe, without=(Counts.NEVER, Counts.WHEN_NEW)))


def leaves(value: Any, prefix: str = "") -> dict[str, Any]:
    """Leaves by dotted path; an empty list or mapping is a leaf."""
    if isinstance(value, dict) and value:
        items = value.items()
    elif isinstance(value, list) and value:
        items = dict(enumerate(value)).items()
    else:
        return {prefix: value}
    found: dict[str, Any] = {}
    for key, item in items:
        found |= leaves(item, f"{prefix}.{key}" if prefix else str(key))
    return found
