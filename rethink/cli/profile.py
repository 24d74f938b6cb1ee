"""`rethink profile`: where a step's time and memory go."""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING

from rethink.cli.arguments import Verbs, print_json, verb, whole
from rethink.terminal import make_console, say

if TYPE_CHECKING:
    from rich.table import Table

    from rethink.kinds.grpo.profile import Profile

EXAMPLES = """\
  rethink profile quickstart
  rethink profile my.yaml rollout.group_size=16 --steps 4
  RETHINK_KERNELS=reference rethink profile my.yaml         without native kernels
  rethink profile my.yaml --json
"""


def add_parser(verbs: Verbs) -> None:
    """Add the verb `profile`."""
    parser = verb(verbs, "profile", "show where a step's time and memory go", EXAMPLES, run)
    parser.add_argument("recipe", metavar="RECIPE", help="a YAML file, or the name of a shipped recipe")
    parser.add_argument("overrides", nargs="*", metavar="key=value", default=[], help="override values of the recipe")
    parser.add_argument(
        "--steps", type=whole(1), default=2, metavar="N", help="timed steps after a warm-up (default 2)"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object")


def run(args: argparse.Namespace) -> int:
    """Measure in a temporary folder and print; nothing is kept."""
    from rethink.kinds.grpo.recipe import Recipe
    from rethink.recipe.kind import of_kind
    from rethink.recipe.recipe_files import load_recipe

    recipe = of_kind(load_recipe(args.recipe, args.overrides), Recipe, "`rethink profile`")

    from rethink.machine.allocator import tune_allocator

    tune_allocator()
    from rethink.kinds.grpo.profile import profile_recipe

    found = profile_recipe(recipe, args.steps, lambda text: say(text, file=sys.stderr, flush=True))
    if args.json:
        print_json(asdict(found))
        return 0

    console = make_console()
    console.print(phases_table(found))
    console.print(operations_table(found))
    say("\n".join(_notes(found)))
    return 0


def phases_table(found: Profile) -> Table:
    """Time and memory by phase, from the timed steps."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    title = f"A step of {found.recipe}: {found.step_s:.2f} s (mean of {found.steps})"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("phase", no_wrap=True)
    for name in ("calls", "seconds", "share", "MiB at end", "MiB peak"):
        table.add_column(name, justify="right", no_wrap=True)
    # Time outside of all phases comes last; time of a phase outside of its own phases is in the row of the phase.
    for phase in sorted(found.phases, key=lambda p: p.depth == 0):
        memory = ("" if value is None else f"{value:,.0f}" for value in (phase.rss_mb, phase.peak_mb))
        indent = "  " * (phase.depth - 1)
        name = "the rest" if phase.depth == 0 else indent + phase.name
        calls = "" if phase.depth == 0 else f"{phase.calls:,.4g}"
        table.add_row(name, calls, f"{phase.seconds:.3f}", f"{100 * phase.share:.1f} %", *memory)
    return table


def operations_table(found: Profile) -> Table:
    """Time by operation within its phase, from the traced steps."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    title = f"Its operations, traced: {found.traced_step_s:.2f} s"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    for name in ("phase", "operation"):
        table.add_column(name, no_wrap=True)
    for name in ("calls", "seconds", "share", "GFLOP/s", "of rate"):
        table.add_column(name, justify="right", no_wrap=True)
    last = None
    for operation in found.operations:
        speed = ("", "")
        if operation.gflops is not None and operation.machine_share is not None:
            speed = (f"{operation.gflops:,.0f}", f"{100 * operation.machine_share:.0f} %")
        phase = "" if operation.phase == last else ("the rest" if operation.phase == "step" else operation.phase)
        last = operation.phase
        calls, share = f"{operation.calls:,.4g}", f"{100 * operation.share:.1f} %"
        table.add_row(phase, operation.name, calls, f"{operation.seconds:.3f}", share, *speed)
    return table


def _notes(found: Profile) -> list[str]:
    kernels = found.kernels + (f" ({found.kernels_reason})" if found.kernels_reason else "")
    lines = [
        "",
        f"kernels {kernels}, {found.dtype}, {found.threads} threads; matrix products reach "
        f"{found.product_gflops:,.0f} GFLOP/s here; {found.tokens_sampled:,.0f} tokens sampled per step; peak memory "
        f"{found.peak_rss_mb / 1024:.2f} GiB.",
        "The seconds of a phase exclude the phases below it that have their own row. Operations are from "
        f"{found.traced_steps} further step(s) under a tracer, which adds time.",
    ]
    if found.training is None:
        lines.append("Nothing was trained on: no group had a signal, or the model's shape is not known.")
    else:
        t = found.training
        lines.append(
            f"Training: {t.gflop:,.0f} GFLOP that a step needs ({t.input_tokens:,.0f} tokens in, "
            f"{t.target_tokens:,.0f} trained on) in {t.seconds:.2f} s with the optimizer: {t.gflops:,.0f} GFLOP/s, "
            f"{100 * t.share:.0f} % of the rate."
        )
    return lines
