"""`rethink train`: check a recipe, run it, and say what came of it."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rethink.cli.arguments import Verbs, print_json, program, verb
from rethink.cli.kinds import KINDS, dry_run_of, function
from rethink.cli.pipeline import PIPELINES, selection_of
from rethink.errors import UsageError
from rethink.terminal import make_console, say

if TYPE_CHECKING:
    from rethink.kinds.reward_model.recipe import RewardModelRecipe
    from rethink.kinds.sft.recipe import SFTRecipe
    from rethink.plan.estimate import MachineRates
    from rethink.recipe.schema import ModelShape, Recipe

EXAMPLES = """\
  rethink train quickstart                                  a recipe that ships, into runs/quickstart
  rethink train my.yaml rollout.group_size=16 seed=3        other values, by dotted path
  rethink train my.yaml tasks.0.params.max_terms=4          an entry of a list goes by its index
  rethink train my.yaml --dry-run                           check it and estimate tokens, memory and time
  rethink train my.yaml --out runs/second                   into another folder
  rethink train my.yaml --resume                            go on where the run stopped
  rethink train my.yaml steps=200 --resume                  extend a finished run
  rethink train sft data.0.path=my.jsonl                    supervised fine-tuning: a recipe of another kind
  rethink train r1                                          a pipeline: what is done and unchanged is skipped
  rethink train r1 --until sft                              only as far as one of its stages
"""

SHOWN_SAMPLES = 3
DRY_RUN_PROMPTS = 32
"""Problems that a dry run renders to learn how long prompts are."""


def add_parser(verbs: Verbs) -> None:
    """Add the verb `train`."""
    parser = verb(verbs, "train", "run a recipe", EXAMPLES, run, when_interrupted)
    parser.add_argument("recipe", metavar="RECIPE", help="a YAML file, or the name of a recipe that ships")
    parser.add_argument("overrides", nargs="*", metavar="key=value", default=[], help="replace values of the recipe")
    parser.add_argument("--out", type=Path, metavar="DIR", help="the run's folder (default: runs/<name of the recipe>)")
    parser.add_argument("--resume", action="store_true", help="continue the run in DIR; starts it where there is none")
    parser.add_argument("--over-memory", action="store_true", help="train though more memory is planned than is free")
    parser.add_argument("--dry-run", action="store_true", help="print the resolved recipe and an estimate; run nothing")
    parser.add_argument("--from", dest="from_stage", metavar="STAGE", help="pipelines: this stage and all that use it")
    parser.add_argument("--until", metavar="STAGE", help="pipelines: this stage and all that it uses")
    parser.add_argument("--only", metavar="STAGE", help="pipelines: this stage alone")
    parser.add_argument("--plain", action="store_true", help="a line per step instead of the live view")
    parser.add_argument("--json", action="store_true", help="JSON lines: events of the run, the summary last")


def run(args: argparse.Namespace) -> int:
    """Run the recipe as its kind wants (`cli/kinds.py`), or say what that would take."""
    from rethink.recipe.loading import load_recipe

    recipe = load_recipe(args.recipe, args.overrides)
    if args.over_memory:
        if not hasattr(recipe, "optimizer"):
            raise UsageError(
                f"--over-memory is for recipes that train one model, and `{recipe.name}` is of the kind "
                f"`{recipe.kind}`: in a pipeline, set optimizer.over_memory=true in the stage that may go over"
            )
        recipe = load_recipe(args.recipe, [*args.overrides, "optimizer.over_memory=true"])
    # Imports nothing heavy; other kinds of recipes have no stages to select.
    selection = selection_of(args, recipe.kind)
    if args.dry_run:
        stages = {"out": args.out, "selection": selection} if recipe.kind in PIPELINES else {}
        return dry_run_of(recipe.kind)(recipe, as_json=args.json, **stages)
    kind = KINDS[recipe.kind]
    args.out = args.out or Path("runs") / recipe.name

    from rethink.kernels.machine import tune_allocator

    tune_allocator()
    from rethink.observe.progress import make_progress

    progress = make_progress("json" if args.json else "lines" if args.plain else "auto", title=recipe.name)
    try:
        more = {} if selection is None else {"selection": selection}
        summary = function(kind.run)(recipe, args.out, resume=args.resume, progress=progress, **more)
    except BaseException:
        progress.close()  # before the error is printed: the live view would draw over it
        raise
    if args.json:
        print_json({"event": "summary", **summary, "folder": str(args.out)})
    elif summary["finished"]:
        function(kind.show)(summary, args.out)
    if not summary["finished"]:
        raise KeyboardInterrupt  # Ctrl-C let the step end and saved it; the run is still an interrupted one
    return 0


def when_interrupted(args: argparse.Namespace) -> str:
    """How to go on after Ctrl-C."""
    from rethink.store.pipeline_folder import PipelineFolder
    from rethink.store.run_folder import RunFolder

    if args.dry_run or args.out is None or not (RunFolder.exists(args.out) or PipelineFolder.exists(args.out)):
        return "Nothing had been started."
    words = ["train", args.recipe, *args.overrides, "--out", str(args.out), "--resume"]
    words += ["--over-memory"] if args.over_memory else []
    return f"What was done is saved. To go on: {program()} {shlex.join(words)}"


# --- dry run -----------------------------------------------------------------------------------------------------


def dry_run(recipe: Recipe, *, as_json: bool) -> int:
    """Print the resolved recipe and what it would take.

    A recipe that declares its model's shape is estimated from itself alone. Otherwise the model's headers are read and
    a few problems rendered (of files, all long ones), as the run itself would, so a missing file or a prompt that is
    too long shows up now.
    """
    from rethink.plan.estimate import estimate
    from rethink.plan.gpus import gpus_text, plan_gpus
    from rethink.plan.text import estimate_text
    from rethink.recipe.identity import recipe_hash
    from rethink.recipe.loading import recipe_to_yaml
    from rethink.runs.placement import check_device, check_reward_models

    check_device(recipe)
    shape, prompt_tokens = recipe.model.shape, None
    if shape is None:
        check_reward_models(recipe)
        shape, prompt_tokens = _look(recipe)
    dtype, rates = measure(recipe)
    expected = estimate(recipe, shape, rates, prompt_tokens=prompt_tokens)
    longest = expected.prompt_tokens + recipe.longest_completion
    gpus = plan_gpus(shape, expected.memory, longest, recipe.model.value_bytes, expected.total_flops)
    if as_json:
        print_json(
            {
                "recipe": recipe.model_dump(mode="json"),
                "recipe_hash": recipe_hash(recipe),
                "dtype": dtype,
                "estimate": expected.to_dict(),
                "gpus": None if gpus is None else asdict(gpus),
            }
        )
        return 0
    say(recipe_to_yaml(recipe))
    say(f"# hash {recipe_hash(recipe)}\n")
    say(estimate_text(expected))
    say(f"Times are for this machine computing in {dtype}.")
    if text := gpus_text(gpus, expected.total_flops):
        say(text)
    return 0


def _look(recipe: Recipe) -> tuple[ModelShape, int]:
    """The model's shape from its headers, and the mean length of the first prompts in tokens."""
    from rethink.errors import ModelError
    from rethink.model.chat import PromptRenderer
    from rethink.model.loading import load_checkpoint
    from rethink.plan.estimate import shape_of
    from rethink.recipe.checks import check_against_context
    from rethink.tasks.mix import build_task_mix

    model = recipe.model
    checkpoint = load_checkpoint(
        model.path, revision=model.revision, trust_remote_code=model.trust_remote_code, headers_only=True
    )
    if checkpoint.config is None:
        raise ModelError(
            f"{model.path} cannot be estimated: {checkpoint.reason}. Declare its shape under `model.shape` for a dry "
            "run; to train it, none is needed."
        )
    shape = shape_of(checkpoint.config)
    check_against_context(recipe, shape.context)
    renderer = PromptRenderer(checkpoint.tokenizer, recipe.prompt, shape.context - recipe.longest_completion)
    mix = build_task_mix(recipe)
    lengths = [len(renderer.render(problem).token_ids) for problem in mix.train_batch(0, DRY_RUN_PROMPTS, 0)]
    for problem in mix.long_rows(renderer.surely_fits):
        renderer.render(problem)
    return shape, round(sum(lengths) / len(lengths))


def measure(recipe: Recipe | SFTRecipe | RewardModelRecipe) -> tuple[str, MachineRates]:
    """The compute type that the run would use here, and this machine's rates with it."""
    return measure_rates(recipe.threads, recipe.device, recipe.model.dtype)


def measure_rates(
    threads: int | None, device: str, wanted: Literal["auto", "bfloat16", "float32"]
) -> tuple[str, MachineRates]:
    """As `measure`, from the values of a recipe that it needs."""
    import torch

    from rethink.kernels.machine import choose_dtype, measure_gemm, usable_threads
    from rethink.plan.estimate import MachineRates

    torch.set_num_threads(threads or usable_threads())
    cuda = device != "cpu" and torch.cuda.is_available()
    rates = measure_gemm(device="cuda" if cuda else "cpu")
    dtype = choose_dtype(rates) if wanted == "auto" else wanted
    return dtype, MachineRates.from_matrix_products(rates[dtype] * 1e9)


# --- after a run -------------------------------------------------------------------------------------------------


def show(summary: Mapping[str, Any], out: Path) -> None:
    """What came of a run: the table, three completions before and after, and where things lie."""
    from rethink.observe.report import before_after_table

    console = make_console()
    if summary.get("before") and summary.get("after"):
        console.print()
        console.print(before_after_table(summary))
    elif summary.get("diagnosis"):
        console.print(f"\n{summary['diagnosis']}", markup=False)
    _show_samples(summary)
    console.print(
        f"\nwall time {summary['wall_s'] / 60:.1f} min, peak memory {summary['peak_rss_mb'] / 1024:.1f} GiB\n"
    )
    say(f"folder  {out}\nreport  {out / 'report.html'}\nmodel   {out / 'model'}")
    say(f'\nTry it: {program()} sample --model {shlex.quote(str(out / "model"))} "…"')


def _show_samples(summary: Mapping[str, Any]) -> None:
    pairs = zip(summary.get("samples_before") or (), summary.get("samples_after") or (), strict=False)
    for before, after in list(pairs)[:SHOWN_SAMPLES]:
        say(f"\nQuestion: {before['question']}   (answer: {before['gold']})")
        for when, sample in (("before", before), ("after", after)):
            scores = ", ".join(f"{name} {_score(sample[name])}" for name in ("accuracy", "format"))
            say(f"  {when} ({scores}):")
            say("\n".join(f"    {line}" for line in str(sample["completion"]).strip().splitlines()))


def _score(value: float | None) -> str:
    return "none" if value is None else f"{value:g}"
