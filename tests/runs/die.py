"""Runs a recipe and kills its own process (SIGKILL) at a chosen moment: `die.py RECIPE OUT AT WHEN [CLUSTER]`.

Every change of the run's folder goes through fsync and rename. `AT` counts these calls; at that one the process dies,
`WHEN` = before or after it. `AT` 0 never dies and prints the number of calls. `CLUSTER` is as for `--cluster`.
"""

import os
import signal
import sys
from pathlib import Path

from rethink.cli.cluster_option import placed_on
from rethink.observe.progress import make_progress
from rethink.recipe.kind import kind_named
from rethink.recipe.recipe_files import load_recipe

calls = 0


def watched(function, at, when):
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


def main(path, out, at, when, cluster=None):
    for name in ("fsync", "replace", "rename"):
        setattr(os, name, watched(getattr(os, name), int(at), when))
    recipe = load_recipe(path)
    progress = make_progress("none")
    with placed_on(cluster, progress.note):
        kind_named(recipe.kind).load("run")(recipe, Path(out), resume=True, progress=progress)
    print(calls)


if __name__ == "__main__":  # Ray's process imports this module again
    main(*sys.argv[1:])
