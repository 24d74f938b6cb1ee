"""Records that are found by themselves: one of each module of a package of ours, and those of installed packages.

    rethink/kinds/NAME/__init__.py          KIND = Kind(…)        entry points `rethink.kinds`
    rethink/rollout/engines/NAME.py         ENGINE = Engine(…)    entry points `rethink.engines`

So a new one is its own folder or file, and nothing else has to know its name.
"""

from __future__ import annotations

import importlib
import pkgutil
from importlib.metadata import entry_points
from typing import Any, TypeVar

from rethink.errors import RecipeError

T = TypeVar("T")


def registered(package: str, group: str, of: type[T], what: str) -> dict[str, T]:
    """Records by name: ours in the order of their modules, then those of other installed packages.

    Args:
        package: whose modules hold one each, under the class's name in capitals; a module without one is passed over.
        group: of the entry points that name one each.
        of: the records' class, which has a `name`.
        what: the records are, for messages.

    Raises:
        RecipeError: an installed package brings one that cannot be imported, is of another class, or has a name that
            is taken.
    """
    ours = [importlib.import_module(f"{package}.{module.name}") for module in _modules(package)]
    records = [getattr(module, of.__name__.upper(), None) for module in ours]
    found: dict[str, Any] = {record.name: record for record in records if record is not None}
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


def _modules(package: str) -> list[pkgutil.ModuleInfo]:
    return list(pkgutil.iter_modules(importlib.import_module(package).__path__))
