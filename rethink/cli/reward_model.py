"""`rethink train` of a recipe of the kind `reward-model`: what it would take, and what came of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rethink.cli.arguments import print_json

if TYPE_CHECKING:
    from rethink.recipe.reward_model import RewardModelRecipe

SHOWN_RELIABILITY = 3
"""Fewest examples of a bin that is shown."""


def dry_run(recipe: RewardModelRecipe, *, as_json: bool) -> int:
    """Read model headers and data as the run itself would; print the resolved recipe and an estimate."""
    from rethink.kernels.machine import choose_dtype, measure_gemm
    from rethink.recipe.estimate import MachineRates, count_parameters, shape_of
    from rethink.recipe.identity import recipe_hash
    from rethink.recipe.loading import recipe_to_yaml
    from rethink.train.choices import check_device
    from rethink.train.reward_data import step_examples, total_steps
    from rethink.train.reward_model_run import load_start, read_data

    check_device(recipe)
    checkpoint = load_start(recipe)
    data = read_data(recipe, checkpoint)
    steps = total_steps(recipe, len(data.train))
    rates = measure_gemm()
    dtype = choose_dtype(rates) if recipe.model.dtype == "auto" else recipe.model.dtype
    rate = MachineRates.from_matrix_products(rates[dtype] * 1e9).training
    tokens = sum(example.tokens for step in range(steps) for example in step_examples(recipe, data, step))
    held_out = sum(example.tokens for example in data.held_out)
    evaluations = 2 + (steps // recipe.evaluation.every if recipe.evaluation.every else 0)
    plan: dict[str, Any] = {"steps": steps, "tokens": tokens, "held_out_tokens": held_out, "data": data.facts}
    if checkpoint.config is not None:
        parameters = count_parameters(shape_of(checkpoint.config))
        operations = parameters.block * (6.0 * tokens + 2.0 * held_out * evaluations)
        plan |= {
            "parameters": parameters.total,
            "operations": operations,
            "seconds": operations / rate,
            "memory_gb": parameters.total * (16 + (2 if dtype == "bfloat16" else 0)) / 2**30,
        }
    if as_json:
        print_json(
            {"recipe": recipe.model_dump(mode="json"), "recipe_hash": recipe_hash(recipe), "dtype": dtype} | plan
        )
        return 0
    print(recipe_to_yaml(recipe))
    print(f"# hash {recipe_hash(recipe)}\n")
    print(f"steps            {steps}, {recipe.batch_size} examples each; {tokens:,} tokens")
    for line in data_lines(data.facts):
        print(line)
    if "seconds" in plan:
        print(f"time             about {plan['seconds'] / 60:.1f} min on this machine computing in {dtype}")
        print(f"memory           {plan['memory_gb']:.1f} GiB and the activations of a micro-batch")
    return 0


def data_lines(facts: Mapping[str, Any]) -> list[str]:
    """What the data are, a line each."""
    replayed = f" ({facts['replayed']} of them earlier ones)" if facts["replayed"] else ""
    lines = [f"examples         {facts['train']} to train on{replayed}, {facts['held_out']} held out"]
    if facts["unusable"]:
        listed = ", ".join(f"{n} {reason}" for reason, n in facts["unusable"].items())
        lines.append(f"left out         {listed}")
    if facts["synthetic"]:
        listed = ", ".join(f"{n} {rule}" for rule, n in facts["synthetic"].items())
        lines.append(f"synthetic        {listed}: made by rule, not by people")
    if facts.get("tokens_chosen") is not None:
        longer = facts["longer_is_better"]
        shown = "" if longer is None else f"; the longer one is the better one in {longer:.0%} of the held-out pairs"
        chosen, rejected = facts["tokens_chosen"], facts["tokens_rejected"]
        lines.append(f"length           {chosen:.0f} tokens chosen, {rejected:.0f} rejected{shown}")
    return lines


def show(summary: Mapping[str, Any], out: Path) -> None:
    """What came of a run: held-out accuracy and calibration before and after, and where things lie."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    before, after = summary.get("before"), summary.get("after")
    if before and after:
        what = "pairs" if summary["objective"] == "pairwise" else "responses"
        table = Table(title=f"{after['n']:.0f} held-out {what}", title_justify="left")
        for column in ("", "before", "after"):
            table.add_column(column)
        interval = [
            f"{e['accuracy']:.3f} ({e['accuracy_ci'][0]:.3f} – {e['accuracy_ci'][1]:.3f})" for e in (before, after)
        ]
        table.add_row("accuracy (95 % interval)", *interval)
        for name, label in (("loss", "loss"), ("ece", "calibration error"), ("margin_mean", "mean margin")):
            table.add_row(label, f"{before[name]:.3f}", f"{after[name]:.3f}")
        console.print(table)
        _show_reliability(after)
    print("\n".join(data_lines(summary["data"])))
    print(f"\nwall time {summary['wall_s'] / 60:.1f} min, peak memory {summary['peak_rss_mb'] / 1024:.1f} GiB")
    print(f"folder  {out}\nmodel   {out / 'model'}")
    print(f"\nAs a reward: reward.parts: [{{name: reward-model, model: {out / 'model'}}}]")


def _accuracy(facts: Mapping[str, Any]) -> str:
    low, high = facts["accuracy_ci"]
    return f"{facts['accuracy']:.3f} ({low:.3f} – {high:.3f})"


def _show_reliability(after: Mapping[str, Any]) -> None:
    bins = [entry for entry in after["reliability"] if entry["n"] >= SHOWN_RELIABILITY]
    if bins:
        print("probability given → share right (examples)")
        print("   ".join(f"{entry['probability']:.2f} → {entry['share']:.2f} ({entry['n']})" for entry in bins))
