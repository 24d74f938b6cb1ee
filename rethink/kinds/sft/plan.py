"""What a fine-tuning run takes: for `--dry-run`, and as a stage of a pipeline."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from rethink.kinds.sft.recipe import SFTDataSize, SFTRecipe
from rethink.kinds.sft.run import read_data
from rethink.machine.placement import check_device
from rethink.model.loading import load_model
from rethink.observe.progress import make_progress
from rethink.plan.costs import Costs
from rethink.plan.estimate import ASSUMED_PROMPT_TOKENS, MachineRates
from rethink.plan.training import Reading, TrainingEstimate, estimate_training, training_text
from rethink.recipe.checks import check_warmup
from rethink.recipe.kind import Drawn, Planned
from rethink.recipe.schema import ModelShape
from rethink.runs.planning import known_shape, measure, planned


def plan(recipe: SFTRecipe) -> Planned:
    """What the run would take.

    A recipe that declares `model.shape` and `data_size` is estimated from itself alone. Otherwise the model's headers
    and all data are read, as the run itself would, so that a bad row or one that is too long shows up now.

    Raises:
        UsageError: the recipe, model or data does not allow the run.
    """
    check_device(recipe.device)
    found: dict[str, Any] = {}
    shape, size, longest = recipe.model.shape, recipe.data_size, None
    if shape is None or size is None:
        shape, size, longest, found = _look(recipe)
    dtype, rates = measure(recipe)
    longest = longest or recipe.max_tokens or shape.context
    expected = estimate_sft(recipe, shape, size, longest, rates)
    lines = [_set_text(entry) for entry in found.get("data", [])]
    return planned(recipe.model, shape, dtype, expected, training_text(expected, "documents"), longest, (found, lines))


def estimate_sft(
    recipe: SFTRecipe, shape: ModelShape, size: SFTDataSize, longest: int, rates: MachineRates | None
) -> TrainingEstimate:
    """Tokens, operations, memory and time of a run on data of this size, measured or as the recipe declares it."""
    batch = recipe.batch_sequences
    steps = recipe.steps or math.ceil(round((recipe.epochs or 0) * size.documents, 6) / batch)
    reading = Reading(size.documents, size.tokens, size.trained_tokens, visits=steps * batch, batch=batch, steps=steps)
    return estimate_training(recipe, shape, reading, longest, rates)


def _look(recipe: SFTRecipe) -> tuple[ModelShape, SFTDataSize, int, dict[str, Any]]:
    """The model's shape from its headers; the data's size, their longest document, and the facts of each set."""
    checkpoint = load_model(recipe.model, headers_only=True)
    shape = known_shape(recipe.model, checkpoint)
    data = read_data(recipe, checkpoint, make_progress("none"))
    check_warmup(recipe.optimizer, data.steps(recipe))
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
    return shape, size, longest, {"data": facts, "held_out": len(data.held_out)}


def _set_text(entry: Mapping[str, Any]) -> str:
    return (
        f"{entry['path']}: {entry['rows']:,} rows, {entry['dropped']:,} too long, {entry['held_out']:,} held out, "
        f"{entry['documents_per_epoch']:,} documents an epoch"
    )


def costs(
    recipe: SFTRecipe, shape: ModelShape, drawn: Callable[[str], Drawn | None], rates: MachineRates | None
) -> Costs:
    """As a stage of a pipeline; data sets are taken at what the stages that make them can keep at most."""
    size = recipe.data_size or _data_size(recipe, drawn)
    if size is None:
        return Costs()
    found = estimate_sft(recipe, shape, size, recipe.max_tokens or shape.context, rates)
    return Costs(found.total_tokens, found.total_flops, found.total_seconds, found.memory, recipe.max_tokens)


def _data_size(recipe: SFTRecipe, drawn: Callable[[str], Drawn | None]) -> SFTDataSize | None:
    """Of data that stages before make, at most; None where a file is among them (it is counted when it is read)."""
    documents, completions = 0.0, 0.0
    for entry in recipe.data:
        made = drawn(entry.path)
        if made is None:
            return None
        kept = made.problems * made.kept_per_problem
        talk = kept * made.talk_share / (1 - made.talk_share)
        documents += kept + talk
        completions += kept * made.max_new_tokens + talk * made.talk_tokens
    mean = completions / documents
    return SFTDataSize(documents=round(documents), tokens=mean + ASSUMED_PROMPT_TOKENS, trained_tokens=mean)
