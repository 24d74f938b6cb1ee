"""A fine-tuning run from recipe to summary: set up, train, finish. `loop.py` is the part in between.

recipe ─► tokenizer · data (read, rendered, split) ─► folder (new, resumed or extended) ─► model ─► SFT ─► summary
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from rethink.errors import RecipeError
from rethink.kinds.sft import loop
from rethink.kinds.sft.data import TrainingData, load_data
from rethink.kinds.sft.loop import SFT
from rethink.kinds.sft.recipe import SFTRecipe
from rethink.kinds.sft.wire import build
from rethink.model.build import exact_weights
from rethink.model.loading import Checkpoint, load_model
from rethink.model.saving import save_hf_folder
from rethink.observe.progress import Progress
from rethink.observe.trackers import check_trackers
from rethink.recipe.checks import check_warmup
from rethink.runs.checkpoint import restore
from rethink.runs.choices import apply_choices, training_choices
from rethink.runs.inputs import model_hash
from rethink.runs.loop import Loop, run_training, trackers_of
from rethink.runs.memory_room import check_training_room
from rethink.runs.rounds import shared_optimizer
from rethink.runs.session import open_run, summary_of
from rethink.store.run_folder import RunFolder

MANY_ROWS = 20_000
"""From so many rows of a file on, their reading is announced: it takes more than a moment."""


def train_sft(recipe: SFTRecipe, out: Path, *, resume: bool = False, progress: Progress) -> dict[str, Any]:
    """Fine-tune a model in the folder `out` and return the summary (also `summary.json`).

    Args:
        recipe: the run.
        out: its folder.
        resume: go on with what `out` holds: after a kill, or to extend a finished run. An empty or missing folder
            starts.
        progress: where to show what happens.

    Raises:
        UsageError: the recipe, model, data or folder does not allow the run; nothing was started.
        RunFailure: the run had to stop; its last checkpoint is sound.
    """
    started = time.perf_counter()
    check_trackers(recipe.trackers)
    checkpoint = load_model(recipe.model)
    data = read_data(recipe, checkpoint, progress)
    steps = data.steps(recipe)
    check_warmup(recipe.optimizer, steps)
    folder = open_run(
        recipe,
        out,
        resume=resume,
        steps=steps,
        choices=lambda: training_choices(recipe, checkpoint.config),
        also=model_hash(recipe.model.path, checkpoint.folder),
    )
    parts = Loop(
        step=loop.one_step,
        evaluate=loop.evaluate_now,
        holds_out=lambda run: bool(run.data.held_out),
        write=loop.write,
        summarise=summarise,
        export=lambda run, _, path: run.export(path),
    )

    def make() -> SFT:
        return assemble(recipe, checkpoint, folder, data, steps, progress)

    return run_training(folder, progress, make, parts, started)


def read_data(recipe: SFTRecipe, checkpoint: Checkpoint, progress: Progress) -> TrainingData:
    """The data, rendered for the model of a checkpoint.

    Raises:
        RecipeError: `max_tokens` is beyond the model's context.
        TaskError: see `load_data`.
    """
    context = None if checkpoint.config is None else checkpoint.config.max_position_embeddings
    if context is not None and recipe.max_tokens is not None and recipe.max_tokens > context:
        raise RecipeError(
            f"`max_tokens` is {recipe.max_tokens}, and the model's context is {context} tokens. Set it to at most "
            f"{context}, or choose a model with a longer context."
        )

    def on_rows(done: int, of: int) -> None:
        progress.phase("data", done, of)
        if not done and of >= MANY_ROWS:
            progress.note(f"Reading {of:,} rows ...")

    return load_data(recipe, checkpoint.tokenizer, context, on_rows)


def assemble(
    recipe: SFTRecipe, checkpoint: Checkpoint, folder: RunFolder, data: TrainingData, steps: int, progress: Progress
) -> SFT:
    """Build every part, and put a resumed run's state into them."""
    choices = folder.choices
    placement = apply_choices(choices)
    sizes = [len(document.token_ids) for entry in data.sets for document in entry.documents]
    check_training_room(recipe.optimizer, checkpoint.config, choices, max(sizes), recipe.batch_sequences * max(sizes))
    progress.phase("model")
    model = build(recipe, checkpoint, placement)
    if checkpoint.config is None:
        progress.note(checkpoint.through_transformers)
    for entry in data.sets:
        if entry.dropped:
            progress.note(f"{entry.path}: {entry.dropped} of {entry.rows} rows are too long and were left out.")
    run = SFT(
        recipe=recipe,
        folder=folder,
        model=model,
        optimizer=shared_optimizer(recipe, checkpoint, model, exact_weights(checkpoint, model), choices),
        data=data,
        steps=steps,
        progress=progress,
        micro_batch_tokens=int(choices["micro_batch_tokens"]),
        export=lambda path: save_hf_folder(path, model.hf_tensors(), checkpoint.hf_config, checkpoint.tokenizer),
    )
    run.state, _ = restore(folder, run.optimizer, None, progress.note)
    run.trackers = trackers_of(run)
    return run


def summarise(run: SFT, wall_s: float, finished: bool) -> dict[str, Any]:
    """What `summary.json` says: losses before and after, data, time, memory."""
    rows = run.folder.metrics()
    documents = run.state.step * run.recipe.batch_sequences
    summary = summary_of(run.recipe, run.folder, wall_s, finished) | {
        "steps": run.state.step,
        "epochs": documents / run.data.mixture.epoch,
        "documents": documents,
        "document_tokens": run.state.tokens_total,
        "data": [entry.facts() for entry in run.data.sets],
    }
    losses = {row["step"]: row["train/loss"] for row in rows if "train/loss" in row}
    if losses:
        summary["train_loss"] = {"first": losses.get(1), "last": losses.get(run.state.step)}
    evaluated = {row["step"]: row for row in rows if "eval/loss" in row}
    if 0 in evaluated:
        summary["eval_loss"] = {"before": evaluated[0]["eval/loss"], "documents": evaluated[0]["eval/n"]}
        if finished and run.state.step in evaluated:
            summary["eval_loss"]["after"] = evaluated[run.state.step]["eval/loss"]
    return summary
