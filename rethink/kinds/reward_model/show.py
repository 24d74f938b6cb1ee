"""`rethink train` of a recipe of the kind `reward-model`: what it would take, and what came of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rethink.cli.arguments import print_json
from rethink.terminal import make_console, say

if TYPE_CHECKING:
    from rethink.kinds.reward_model.recipe import RewardDataSize, RewardModelRecipe
    from rethink.recipe.schema import ModelShape

SHOWN_RELIABILITY = 3
"""Fewest examples of a bin that is shown."""


def dry_run(recipe: RewardModelRecipe, *, as_json: bool) -> int:
    """Print the resolved recipe and what it would take; nothing is trained.

    A recipe that declares `model.shape` and `data_size` is estimated from itself alone. Otherwise the model's headers
    and all data are read, as the run itself would.
    """
    from rethink.cli.train import measure
    from rethink.kinds.reward_model.estimate import estimate_reward_model, reward_model_estimate_text
    from rethink.plan.gpus import gpus_text, plan_gpus
    from rethink.recipe.identity import recipe_hash
    from rethink.recipe.loading import recipe_to_yaml
    from rethink.runs.placement import check_device

    check_device(recipe)
    facts: dict[str, Any] | None = None
    sizes: dict[str, int] = {}
    shape, size = recipe.model.shape, recipe.data_size
    if shape is None or size is None:
        shape, size, facts, sizes = _look(recipe)
    dtype, rates = measure(recipe)
    expected = estimate_reward_model(recipe, shape, size, rates, **sizes)
    longest = sizes.get("longest") or recipe.max_tokens or shape.context
    gpus = plan_gpus(shape, expected.memory, longest, recipe.model.value_bytes, expected.total_flops)
    if as_json:
        print_json(
            {
                "recipe": recipe.model_dump(mode="json"),
                "recipe_hash": recipe_hash(recipe),
                "dtype": dtype,
                "estimate": expected.to_dict(),
                "gpus": None if gpus is None else asdict(gpus),
                "data": facts,
            }
        )
        return 0
    say(recipe_to_yaml(recipe))
    say(f"# hash {recipe_hash(recipe)}\n")
    for line in data_lines(facts) if facts else []:
        say(line)
    say(reward_model_estimate_text(expected))
    say(f"Times are for this machine computing in {dtype}.")
    if text := gpus_text(gpus, expected.total_flops):
        say(text)
    return 0


def _look(recipe: RewardModelRecipe) -> tuple[ModelShape, RewardDataSize, dict[str, Any], dict[str, int]]:
    """The model's shape from its headers; the data's size, their facts, and the lengths that the estimate takes."""
    from rethink.errors import ModelError
    from rethink.kinds.reward_model.recipe import RewardDataSize
    from rethink.kinds.reward_model.run import load_start, read_data
    from rethink.plan.estimate import shape_of

    checkpoint = load_start(recipe, headers_only=True)
    if checkpoint.config is None and recipe.model.shape is None:
        raise ModelError(
            f"{recipe.model.path} cannot be estimated: {checkpoint.reason}. Declare its shape under `model.shape` for "
            "a dry run; to train it, none is needed."
        )
    data = read_data(recipe, checkpoint)
    tokens = [example.tokens for example in data.train]
    size = RewardDataSize(examples=len(tokens), tokens=sum(tokens) / len(tokens))
    shape = recipe.model.shape or shape_of(checkpoint.config)  # type: ignore[arg-type]
    held_out = sum(example.tokens for example in data.held_out)
    return shape, size, data.facts, {"longest": max(tokens), "held_out_tokens": held_out}


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
    from rich.table import Table

    console = make_console()
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
    say("\n".join(data_lines(summary["data"])))
    say(f"\nwall time {summary['wall_s'] / 60:.1f} min, peak memory {summary['peak_rss_mb'] / 1024:.1f} GiB")
    say(f"folder  {out}\nmodel   {out / 'model'}")
    say(f"\nAs a reward: reward.parts: [{{name: reward-model, model: {out / 'model'}}}]")


def _accuracy(facts: Mapping[str, Any]) -> str:
    low, high = facts["accuracy_ci"]
    return f"{facts['accuracy']:.3f} ({low:.3f} – {high:.3f})"


def _show_reliability(after: Mapping[str, Any]) -> None:
    bins = [entry for entry in after["reliability"] if entry["n"] >= SHOWN_RELIABILITY]
    if bins:
        say("probability given → share right (examples)")
        say("   ".join(f"{entry['probability']:.2f} → {entry['share']:.2f} ({entry['n']})" for entry in bins))
