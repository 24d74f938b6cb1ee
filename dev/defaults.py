"""Every kind's defaults beside its version, in `dev/defaults.json`: what an equal hash means.

A field at its default is not in the hash of a run or stage (`rethink/recipe/identity.py`). So where a default changes,
the kind's version must be raised; else a run of the old default would be taken for one of the new.

    python dev/defaults.py            write the file; refused where a default changed and the version did not
    python dev/defaults.py --check    only look whether it is current
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from rethink.recipe.fields import plain, walk_fields
from rethink.recipe.identity import differing
from rethink.recipe.kind import Kind, kinds
from rethink.recipe.schema import Counts

PATH = Path(__file__).resolve().parent / "defaults.json"


def defaults(kind: Kind) -> dict[str, Any]:
    """The default of each field that counts, by path; of a section, what differs from the defaults of its fields."""
    found, never = {}, ["kind"]
    for field in walk_fields(kind.model):
        if Counts.NEVER in field.info.metadata:
            never.append(field.path)
        elif not field.info.is_required() and not any(f"{field.path}.".startswith(f"{path}.") for path in never):
            value = field.info.get_default(call_default_factory=True)
            found[field.path] = differing(value) if isinstance(value, BaseModel) else plain(value, [Counts.NEVER])
    return found


def current() -> dict[str, Any]:
    """What the file should hold, of the kinds of this package."""
    own = [kind for kind in kinds().values() if kind.recipe.startswith("rethink.")]
    return {kind.name: {"version": kind.version, "defaults": defaults(kind)} for kind in own}


def changed(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """A sentence for each kind that has another default at the same version."""
    said = []
    for name, old in before.items():
        new = now.get(name)
        if new is None or new["version"] > old["version"]:
            continue
        paths = [p for p, value in old["defaults"].items() if new["defaults"].get(p, value) != value]
        if paths:
            said.append(
                f"the default of {', '.join(paths)} changed: raise `version` in the record of the kind `{name}` "
                f"(it is {old['version']}), then run dev/defaults.py"
            )
    return said


def main(arguments: list[str]) -> int:
    """Write the file, or look whether it is current."""
    before, now = json.loads(PATH.read_text("utf-8")) if PATH.exists() else {}, current()
    said = changed(before, now)
    if not said and "--check" in arguments and before != now:
        said = ["dev/defaults.json is stale: run dev/defaults.py"]
    if not said and "--check" not in arguments:
        PATH.write_text(json.dumps(now, indent=1, ensure_ascii=False) + "\n", "utf-8")
    print("\n".join(said), end="\n" if said else "")
    return 1 if said else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
