"""The workers' Python, where it is not the driver's: what it is and has, asked in a process of its own."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence

from rethink.distributed.host import facts

SECONDS = 120.0
"""How long it may take to answer: an engine's packages are looked for, and torch is imported."""
SAME = ("rethink", "ray", "python")
"""Facts in which it must equal the driver's: they speak with each other."""


def facts_of(python: str, paths: Sequence[str] = (), engines: Sequence[str] = ()) -> dict[str, str]:
    """See `host.facts`, of another Python of this machine; with `error` where it cannot be a worker's.

    Args:
        python: its path.
        paths: files or folders that a run reads.
        engines: names of engines that it is to have.
    """
    wanted = [word for name in engines for word in ("--engine", name)]
    command = [python, "-m", "rethink.distributed.host", "facts", *wanted, "--", *paths]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return {"error": f"`{python}` did not say within {SECONDS:.0f} s what it is"}
    except OSError as error:
        return {"error": f"`{python}` cannot be run ({error.strerror}). Give the path of a Python as `python`"}
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        if "No module named" in last:
            install = f"{python} -m pip install -e '.[ray]'"
            return {"error": f"`{python}` cannot import all of Rethink ({last}). Install it there: `{install}`"}
        return {"error": f"`{python}` ended with {last}"}
    found: dict[str, str] = json.loads(done.stdout.strip().splitlines()[-1])
    here = facts()
    wrong = [f"{fact} {found[fact]} (here: {here[fact]})" for fact in SAME if found[fact] != here[fact]]
    if wrong:
        return {"error": f"`{python}` has {', '.join(wrong)}. Install the same versions there as here"}
    return found
