"""When two recipes are the same run: the hash of a stage, and which values may change when it is resumed.

What may change is what has no part in the numbers up to the step reached: how far to go, how often to evaluate and to
save, where metrics are sent, and words. All else (the seed and the thread count too: it decides the order of sums) is
the run's identity.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

from rethink.recipe.base import AnyRecipe
from rethink.recipe.explain import show
from rethink.recipe.kind import DEFAULT_KIND


def recipe_hash(recipe: AnyRecipe) -> str:
    """SHA-256 (hex) of the canonical JSON of all fields that decide a run's numbers; those in `FREE` are left out.

    The same run described in another order of keys, with defaults written out or not, has the same hash.
    """
    canonical = json.dumps(identity(recipe), sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(canonical.encode()).hexdigest()


def resume_differences(old: AnyRecipe, new: AnyRecipe) -> list[str]:
    """What forbids resuming the run of `old` with `new`: a sentence for each value, empty where nothing does."""
    if old.kind != new.kind:
        return [f"`kind` was {show(old.kind)}, the recipe now says {show(new.kind)}"]
    before, after = leaves(identity(old)), leaves(identity(new))
    return [
        f"`{key}` was {_shown(before, key)}, "
        + (f"the recipe now says {show(after[key])}" if key in after else "which the recipe no longer has")
        for key in dict.fromkeys([*before, *after])
        if before.get(key, _ABSENT) != after.get(key, _ABSENT)
    ]


_ABSENT = object()


LATER: dict[str, dict[str, Any]] = {
    "reward.parts": {"model": None, "on": None, "from_step": 0, "until_step": None},
    "tasks": {"reward": None},
}
"""Fields of list entries that came after runs had been hashed, with their defaults: there they are left out, so that a
recipe that does not use them keeps its hash, and a run begun before them can be resumed."""


def identity(recipe: AnyRecipe) -> dict[str, Any]:
    """A recipe's values without those in `FREE`, as JSON takes them."""
    data: dict[str, Any] = recipe.model_dump(mode="json")
    if recipe.kind == DEFAULT_KIND:
        for entry, later in [(e, LATER["reward.parts"]) for e in data["reward"]["parts"]] + [
            (e, LATER["tasks"]) for e in data["tasks"]
        ]:
            for key, default in later.items():
                if entry[key] == default:
                    del entry[key]
    for path in type(recipe).FREE:
        *sections, last = path.split(".")
        node = data
        for section in sections:
            node = node[section]
        del node[last]
    return data


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


def _shown(flat: dict[str, Any], key: str) -> str:
    return show(flat[key]) if key in flat else "not set"
