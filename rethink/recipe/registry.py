"""Records that are found by themselves: those of each module of a package of ours, and those of installed packages.

    rethink/kinds/NAME/__init__.py          KIND = Kind(…)             entry points `rethink.kinds`
    rethink/rollout/engines/NAME.py         ENGINE = Engine(…)         entry points `rethink.engines`
    rethink/rewards/built_in/NAME.py        REWARD = Reward(…)         entry points `rethink.rewards`
    rethink/eval/benchmarks/NAME.py         BENCHMARK = Benchmark(…)   entry points `rethink.benchmarks`
    rethink/algorithms/preferences/NAME.py  PREFERENCE_OBJECTIVE = …   entry points `rethink.preferences`

So a new one is its own folder or file, and nothing else has to know its name.
"""

from __future__ import annotations

import importlib
import pkgutil
import re
from importlib.metadata import entry_points
from typing import Any, TypeVar

from rethink.errors import RecipeError

T = TypeVar("T")


def registered(package: str, group: str, of: type[T], what: str) -> dict[str, T]:
    """Records by name: ours in the order of their modules, then those of other installed packages.

    Args:
        package: whose modules hold one each, under the class's name in capitals, or a tuple of them, under its plural;
            a module without either is passed over.
        group: of the entry points that name one each.
        of: the records' class, which has a `name`.
        what: the records are, for messages.

    Raises:
        RecipeError: an installed package brings one that cannot be imported, is of another class, or has a name that
            is taken.
    """
    found: dict[str, Any] = {}
    for name in _modules(package):
        module = importlib.import_module(f"{package}.{name}")
        attribute = re.sub("(?<=[a-z])(?=[A-Z])", "_", of.__name__).upper()
        one = getattr(module, attribute, None)
        found |= {record.name: record for record in getattr(module, f"{attribute}S", () if one is None else (one,))}
    for point in entry_points(group=group):
        brought_by = f"The package {point.dist.name}" if point.dist else f"The entry point {point.value}"
        try:
            record = point.load()
        except Exception as error:
            raise RecipeError(
                f"{brought_by} brings {what} that cannot be imported ({type(error).__name__}: {error}). Repair or "
                "remove the package."
            ) from error
        if not isinstance(record, of) or record.name in found:  # type: ignore[attr-defined]
            named = getattr(record, "name", None) if isinstance(record, of) else None
            said = f"{what} named `{named}`, which there is already" if named else f"what is no `{of.__name__}`"
            raise RecipeError(f"{brought_by} brings {said}. Remove the package, or give what it brings another name.")
        found[record.name] = record  # type: ignore[attr-defined]
    return found


def _modules(package: str) -> list[str]:
    return [module.name for module in pkgutil.iter_modules(importlib.import_module(package).__path__)]
