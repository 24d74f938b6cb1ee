"""`rethink train`: check a recipe, run it, and show the result."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rethink.cli.arguments import Verbs, print_json, verb
from rethink.cli.cluster_option import add_cluster, placed_on
from rethink.errors import UsageError
from rethink.kinds.closing import program
from rethink.terminal import say

if TYPE_CHECKING:
    from rethink.recipe.base import AnyRecipe
    from rethink.recipe.kind import Kind, Planned

EXAMPLES = """\
  rethink train quickstart                                  run a shipped recipe, in runs/quickstart
  rethink train my.yaml rollout.group_size=16 seed=3        override values by dotted path
  rethink train my.yaml tasks.0.params.max_terms=4          address an entry of a list by its index
  rethink train my.yaml --dry-run                           check it; estimate tokens, memory and time
  rethink train my.yaml --out runs/second                   write to another folder
  rethink train my.yaml --resume                            resume a run that stopped
  rethink train my.yaml steps=200 --resume                  extend a finished run
  rethink train runs/my --resume                            the same by its folder, which knows its recipe
  rethink train runs/my --out runs/again seed=4             run its recipe once more, with another seed
  rethink train sft data.0.path=my.jsonl                    fine-tune: a recipe of another kind
  rethink train r1                                          run a pipeline; finished, unchanged stages are skipped
  rethink train quickstart --cluster local:2                sample on two workers; the result stays the same
  rethink train r1 --until sft                              stop after one of its stages
"""


def add_parser(verbs: Verbs) -> None:
    """Add the verb `train`."""
    parser = verb(verbs, "train", "run a recipe", EXAMPLES, run, when_interrupted)
    parser.add_argument("recipe", metavar="RECIPE", help="a YAML file, the name of a shipped recipe, or a run folder")
    parser.add_argument("overrides", nargs="*", metavar="key=value", default=[], help="override values of the recipe")
    parser.add_argument("--out", type=Path, metavar="DIR", help="the run folder (default: runs/<name of the recipe>)")
    parser.add_argument("--resume", action="store_true", help="resume the run in DIR, or start it if there is none")
    parser.add_argument("--over-memory", action="store_true", help="train even if it needs more memory than is free")
    parser.add_argument("--dry-run", action="store_true", help="print the resolved recipe and an estimate; run nothing")
    add_cluster(parser)
    parser.add_argument("--from", dest="from_stage", metavar="STAGE", help="pipelines: this stage and all that use it")
    parser.add_argument("--until", metavar="STAGE", help="pipelines: this stage and all that it uses")
    parser.add_argument("--only", metavar="STAGE", help="pipelines: only this stage")
    parser.add_argument("--plain", action="store_true", help="print a line per step instead of the live view")
    parser.add_argument("--json", action="store_true", help="print JSON lines: events of the run, then the summary")


def run(args: argparse.Namespace) -> int:
    """Run the recipe with its kind's functions, or print the plan of a dry run."""
    from rethink.recipe.kind import kind_named

    folder = folder_of(args)
    recipe = recipe_of(args.recipe, folder, args.overrides)
    kind = kind_named(recipe.kind)
    if args.over_memory:
        if not kind.trains:
            raise UsageError(
                f"--over-memory needs a recipe that trains one model, but `{recipe.name}` is of the kind "
                f"`{recipe.kind}`. In a pipeline, set optimizer.over_memory=true in the stage that may exceed memory"
            )
        recipe = recipe_of(args.recipe, folder, [*args.overrides, "optimizer.over_memory=true"])
    if args.cluster is not None:
        from rethink.distributed.cluster import check_use, read_cluster
        from rethink.distributed.rank_opening import check_kind

        cluster = read_cluster(args.cluster)
        if not kind.stages:
            check_use(cluster, recipe.name, samples=kind.samples, shared=kind.lanes is not None)
        check_kind(cluster, recipe)
    selected = selection_of(args, kind)
    if args.dry_run:
        return dry_run(recipe, kind, args.json, {"out": args.out, **selected} if kind.stages else {})
    args.out = args.out or folder or Path("runs") / recipe.name

    from rethink.machine.allocator import tune_allocator

    tune_allocator()
    from rethink.observe.progress import make_progress
    from rethink.runs.recovery import until_done

    progress = make_progress("json" if args.json else "lines" if args.plain else "auto", title=recipe.name)

    def attempt(resume: bool) -> dict[str, Any]:
        found: dict[str, Any] = kind.load("run")(recipe, args.out, resume=resume, progress=progress, **selected)
        return found

    try:
        with placed_on(args.cluster, progress.note, progress, args.out, shared=bool(kind.stages)):
            summary = until_done(attempt, args.resume, args.out, progress.note)
    except BaseException:
        progress.close()  # before the error is printed: the live view would draw over it
        raise
    if args.json:
        print_json({"event": "summary", **summary, "folder": str(args.out)})
    elif summary["finished"]:
        kind.load("show")(summary, args.out)
    if not summary["finished"]:
        raise KeyboardInterrupt  # Ctrl-C let the step end and saved it; the run still counts as interrupted
    return 0


def folder_of(args: argparse.Namespace) -> Path | None:
    """The run or pipeline that the argument RECIPE names; None: it names a recipe."""
    from rethink.store.pipeline_folder import PipelineFolder
    from rethink.store.run_folder import RunFolder

    folder = Path(args.recipe)
    return folder if RunFolder.exists(folder) or PipelineFolder.exists(folder) else None


def recipe_of(given: str, folder: Path | None, overrides: Sequence[str]) -> AnyRecipe:
    """The recipe of a file, of a shipped name, or that a run's folder holds.

    Raises:
        RecipeError: it cannot be found or read.
        RunFolderError: the folder cannot be read.
    """
    from rethink.recipe.recipe_files import load_recipe, parse_recipe
    from rethink.store.pipeline_folder import PipelineFolder
    from rethink.store.run_folder import RunFolder

    if folder is None:
        return load_recipe(given, overrides)
    opened = RunFolder.open(folder) if RunFolder.exists(folder) else PipelineFolder.open(folder)
    return parse_recipe(opened.recipe_yaml, f"The recipe in `{folder}`", overrides)


def selection_of(args: argparse.Namespace, kind: Kind) -> dict[str, Any]:
    """The stages that `--from`, `--until` and `--only` select, as an argument of the kind's functions.

    Raises:
        UsageError: one of them is given for a recipe without stages.
    """
    options = {"--from": args.from_stage, "--until": args.until, "--only": args.only}
    given = [option for option, value in options.items() if value is not None]
    if not given:
        return {}
    if kind.stages is None:
        raise UsageError(
            f"{' and '.join(given)} name stages of a pipeline, but this recipe is of the kind `{kind.name}`, which has "
            "no stages. Leave them out"
        )
    from rethink.kinds.pipeline.selection import Selection

    return {"selection": Selection(args.from_stage, args.until, args.only)}


def dry_run(recipe: AnyRecipe, kind: Kind, as_json: bool, stages: dict[str, Any]) -> int:
    """Print the resolved recipe and its plan; nothing is run.

    Raises:
        UsageError: recipes of this kind cannot be planned.
    """
    from rethink.recipe.identity import recipe_hash
    from rethink.recipe.kind import kinds, listed
    from rethink.recipe.recipe_files import recipe_to_yaml

    if kind.plan is None:
        able = listed(known.name for known in kinds().values() if known.plan)
        raise UsageError(
            f"--dry-run takes recipes of the kind {able}, but this recipe is of the kind `{kind.name}`. Run it without "
            "--dry-run."
        )
    found: Planned = kind.load("plan")(recipe, **stages)
    if as_json:
        print_json({"recipe": recipe.model_dump(mode="json"), "recipe_hash": recipe_hash(recipe), **found.facts})
        return 0
    if found.whole_recipe:
        say(f"{recipe_to_yaml(recipe)}\n# hash {recipe_hash(recipe)}\n")
    say(found.text)
    return 0


def when_interrupted(args: argparse.Namespace) -> str:
    """How to resume after Ctrl-C."""
    from rethink.store.pipeline_folder import PipelineFolder
    from rethink.store.run_folder import RunFolder

    if args.dry_run or args.out is None or not (RunFolder.exists(args.out) or PipelineFolder.exists(args.out)):
        return "Nothing was started."
    words = ["train", args.recipe, *args.overrides, "--out", str(args.out), "--resume"]
    words += ["--over-memory"] if args.over_memory else []
    words += ["--cluster", args.cluster] if args.cluster is not None else []
    return f"The run is saved. To resume: {program()} {shlex.join(words)}"
