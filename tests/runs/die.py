"""Runs a recipe of any kind and kills its own process (SIGKILL) at a chosen moment: `die.py RECIPE OUT AT WHEN`.

Every change of the run's folder goes through fsync and rename. `AT` counts these calls; at that one the process dies,
`WHEN` = before or after it. `AT` 0 never dies and prints the number of calls.
"""

import os
import signal
import sys
from pathlib import Path

from rethink.observe.progress import make_progress
from rethink.recipe.kind import kind_named
from rethink.recipe.recipe_files import load_recipe

path, out, at, when = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
calls = 0


def watched(function):
    def call(*arguments, **options):
        global calls
        calls += 1
        if calls == at and when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        result = function(*arguments, **options)
        if calls == at and when == "after":
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    return call


for name in ("fsync", "replace", "rename"):
    setattr(os, name, watched(getattr(os, name)))
recipe = load_recipe(path)
kind_named(recipe.kind).load("run")(recipe, out, resume=True, progress=make_progress("none"))
print(calls)
