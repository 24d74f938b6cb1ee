"""`rethink train` on a recipe of the kind `sft`: its plan, and what came of it."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rethink.cli.arguments import print_json, program
from rethink.terminal import say

if TYPE_CHECKING:
    from rethink.kinds.sft.recipe import SFTDataSize, SFTRecipe
    from rethink.recipe.schema import ModelShape


def dry_run(recipe: SFTRecipe, *, as_json: bool) -> int:
    """Print the resolved recipe and what it would take; nothing is trained.

    A recipe that declares `model.shape` and `data_size` is estimated from itself alone. Otherwise the model's headers
    and all data are read, as the run itself would, so that a bad row or one that is too long shows up now.
    """
    from rethink.cli.train import measure
    from rethink.kinds.sft.estimate import estimate_sft, sft_estimate_text
    from rethink.plan.gpus import gpus_text, plan_gpus
    from rethink.recipe.identity import recipe_hash
    from rethink.recipe.loading import recipe_to_yaml
    from rethink.runs.placement import check_device

    check_device(recipe)
    found: dict[str, Any] = {}
    shape, size, longest = recipe.model.shape, recipe.data_size, None
    if shape is None or size is None:
        shape, size, longest, found = _look(recipe)
    dtype, rates = measure(recipe)
    expected = estimate_sft(recipe, shape, size, rates, longest=longest)
    longest = longest or recipe.max_tokens or shape.context
    gpus = plan_gpus(shape, expected.memory, longest, recipe.model.value_bytes, expected.total_flops)
    if as_json:
        print_json(
            {
                "recipe": recipe.model_dump(mode="json"),
                "recipe_hash": recipe_hash(recipe),
                "dtype": dtype,
                "estimate": expected.to_dict(),
                "gpus": None if gpus is None else asdict(gpus),
                **found,
            }
        )
        return 0
    say(recipe_to_yaml(recipe))
    say(f"# hash {recipe_hash(recipe)}\n")
    for entry in found.get("data", []):
        say(_set_text(entry))
    say(sft_estimate_text(expected))
    say(f"Times are for this machine computing in {dtype}.")
    if text := gpus_text(gpus, expected.total_flops):
        say(text)
    return 0


def _look(recipe: SFTRecipe) -> tuple[ModelShape, SFTDataSize, int, dict[str, Any]]:
    """The model's shape from its headers; the data's size, their longest document, and the facts of each set."""
    from rethink.errors import ModelError
    from rethink.kinds.sft.recipe import SFTDataSize, check_warmup
    from rethink.kinds.sft.run import read_data
    from rethink.model.loading import load_checkpoint
    from rethink.observe.progress import make_progress
    from rethink.plan.estimate import shape_of

    model = recipe.model
    checkpoint = load_checkpoint(
        model.path, revision=model.revision, trust_remote_code=model.trust_remote_code, headers_only=True
    )
    if checkpoint.config is None and model.shape is None:
        raise ModelError(
            f"{model.path} cannot be estimated: {checkpoint.reason}. Declare its shape under `model.shape` for a dry "
            "run; to train it, none is needed."
        )
    data = read_data(recipe, checkpoint, make_progress("none"))
    check_warmup(recipe, data.steps(recipe))
    counts = data.mixture.counts
    # The mean document of an epoch: a set's mean counts with its share.
    means = [
        (
            sum(len(d.token_ids) for d in entry.documents) / len(entry.documents),
            sum(d.target_tokens for d in entry.documents) / len(entry.documents),
        )
        for entry in data.sets
        if entry.documents
    ]
    shares = [count / data.mixture.epoch for count, entry in zip(counts, data.sets, strict=True) if entry.documents]
    size = SFTDataSize(
        documents=data.mixture.epoch,
        tokens=sum(share * tokens for share, (tokens, _) in zip(shares, means, strict=True)),
        trained_tokens=sum(share * trained for share, (_, trained) in zip(shares, means, strict=True)),
    )
    longest = max(len(d.token_ids) for entry in data.sets for d in entry.documents)
    facts = [entry.facts() | {"documents_per_epoch": count} for entry, count in zip(data.sets, counts, strict=True)]
    shape = model.shape or shape_of(checkpoint.config)  # type: ignore[arg-type]
    return shape, size, longest, {"data": facts, "held_out": len(data.held_out)}


def _set_text(entry: Mapping[str, Any]) -> str:
    return (
        f"{entry['path']}: {entry['rows']:,} rows, {entry['dropped']:,} too long, {entry['held_out']:,} held out, "
        f"{entry['documents_per_epoch']:,} documents an epoch"
    )


def show(summary: Mapping[str, Any], out: Path) -> None:
    """What came of a run: losses before and after, what was read, and where things lie."""
    losses = summary.get("eval_loss") or {}
    if "after" in losses:
        say(
            f"\nheld-out loss {losses['before']:.4f} -> {losses['after']:.4f} on {losses['documents']} documents "
            "(nats per trained token)"
        )
    if "train_loss" in summary:
        first, last = summary["train_loss"]["first"], summary["train_loss"]["last"]
        say(f"training loss {first:.4f} in the first step, {last:.4f} in the last")
    for entry in summary["data"]:
        if entry["dropped"]:
            say(f"{entry['path']}: {entry['dropped']} of {entry['rows']} rows were too long and left out")
    say(f"wall time {summary['wall_s'] / 60:.1f} min, peak memory {summary['peak_rss_mb'] / 1024:.1f} GiB\n")
    say(f"folder  {out}\nreport  {out / 'report.html'}\nmodel   {out / 'model'}")
    say(f'\nTry it: {program()} sample --model {shlex.quote(str(out / "model"))} "…"')
