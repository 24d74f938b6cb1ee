"""A reward model from recipe to summary: set up, train, finish. `loop.py` is the part in between.

recipe ─► model · data ─► folder (new, resumed or extended) ─► training ─► model/ · pairs.jsonl · summary.json
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rethink.errors import UsageError
from rethink.kinds.reward_model import loop
from rethink.kinds.reward_model.data import load_reward_data
from rethink.kinds.reward_model.examples import Examples
from rethink.kinds.reward_model.loop import RewardRun, held_out_facts, score_examples
from rethink.kinds.reward_model.recipe import RewardModelRecipe
from rethink.kinds.reward_model.wire import build
from rethink.model.build import exact_weights
from rethink.model.heads.value_head import (
    RewardModelInfo,
    is_reward_model,
    read_info,
    save_reward_model,
)
from rethink.model.loading import Checkpoint, load_model
from rethink.model.text.reward_text import Template, resolve_template
from rethink.observe.progress import Progress
from rethink.observe.trackers import check_trackers
from rethink.runs.checkpoint import restore
from rethink.runs.choices import apply_choices, training_choices
from rethink.runs.inputs import model_hash
from rethink.runs.loop import Loop, run_training, trackers_of
from rethink.runs.memory_room import check_training_room
from rethink.runs.rounds import shared_optimizer
from rethink.runs.session import open_run, summary_of
from rethink.store.atomic import write_text
from rethink.store.integrity import write_index
from rethink.store.run_folder import RunFolder

WITHOUT_HELD_OUT = 256
"""Training examples whose mean score becomes the offset where nothing is held out."""
PAIRS_FILE = "pairs.jsonl"
"""Every example that was trained on, as `replay.path` of a later run reads it."""


def train_reward_model(
    recipe: RewardModelRecipe, out: Path, *, resume: bool = False, progress: Progress
) -> dict[str, Any]:
    """Run a recipe in the folder `out` and return its summary (also `summary.json`).

    Args:
        resume: go on with what `out` holds. An empty or missing folder starts.
        progress: where to show what happens.

    Raises:
        UsageError: the recipe, model, data or folder does not allow the run; nothing was started.
        RunFailure: the run had to stop; its last checkpoint is sound.
    """
    started = time.perf_counter()
    check_trackers(recipe.trackers)
    checkpoint = load_start(recipe)
    progress.phase("data")
    data = read_data(recipe, checkpoint)
    steps = recipe.total_steps(len(data.train))
    folder = open_run(
        recipe,
        out,
        resume=resume,
        steps=steps,
        choices=lambda: training_choices(recipe, checkpoint.config),
        also=model_hash(recipe.model.path, checkpoint.folder) | {"the examples of `data`": data.digest},
    )
    parts = Loop(
        step=loop.one_step,
        evaluate=loop.evaluate_now,
        holds_out=lambda run: bool(run.data.held_out),
        write=loop.write,
        summarise=summarise,
        export=lambda run, summary, path: save_reward_model(
            path, run.model, checkpoint, _info(run, checkpoint, summary.get("after"))
        ),
    )

    def make() -> RewardRun:
        return _assemble(recipe, checkpoint, folder, data, steps, progress)

    return run_training(folder, progress, make, parts, started)


def load_start(recipe: RewardModelRecipe, *, headers_only: bool = False) -> Checkpoint:
    """The model to begin with; its headers alone are read.

    Raises:
        ModelError: it cannot be found, or cannot carry a value head.
        UsageError: it is a reward model of another objective, or scores another part of a response.
    """
    checkpoint = load_model(recipe.model, headers_only=headers_only)
    if is_reward_model(checkpoint.folder):
        info = read_info(checkpoint.folder)
        for key, wanted in (("objective", recipe.objective), ("on", recipe.scored_on)):
            if getattr(info, key) != wanted:
                raise UsageError(
                    f"`model.path` is a reward model trained with `{key}: {getattr(info, key)}`, and this recipe says "
                    f"`{wanted}`. Set {key}={getattr(info, key)}, or begin with a language model"
                )
    return checkpoint


def read_data(recipe: RewardModelRecipe, checkpoint: Checkpoint) -> Examples:
    """The recipe's examples, in the ids of the model's tokenizer. Raises as `load_reward_data`."""
    context = checkpoint.config.max_position_embeddings if checkpoint.config is not None else 2**31
    template = template_of(recipe, checkpoint)
    return load_reward_data(recipe, checkpoint.tokenizer, template, context)


def template_of(recipe: RewardModelRecipe, checkpoint: Checkpoint) -> Template:
    """How conversations become text: as the recipe says; by itself as the reward model that is trained on has it."""
    if recipe.template == "auto" and is_reward_model(checkpoint.folder):
        return read_info(checkpoint.folder).template
    return resolve_template(recipe.template, checkpoint.tokenizer)


def _assemble(
    recipe: RewardModelRecipe,
    checkpoint: Checkpoint,
    folder: RunFolder,
    data: Examples,
    steps: int,
    progress: Progress,
) -> RewardRun:
    """Build every part, and put a resumed run's state into them."""
    choices = folder.choices
    placement = apply_choices(choices)
    longest = max(example.tokens for example in data.train)
    check_training_room(
        recipe.optimizer, checkpoint.config, choices, longest, recipe.batch_size * longest, logits=False
    )
    progress.phase("model")
    if not data.held_out:
        progress.note("Nothing is held out, so neither accuracy nor calibration can be reported.")
    model = build(recipe, checkpoint, placement)
    optimizer = shared_optimizer(recipe, checkpoint, model, exact_weights(checkpoint, model.decoder), choices)
    limit = int(choices["micro_batch_tokens"])
    run = RewardRun(recipe, folder, model, optimizer, data, steps, progress, limit)
    run.state, _ = restore(folder, optimizer, None, progress.note)
    run.trackers = trackers_of(run)
    rows = [json.dumps(example.preference.row(), ensure_ascii=False) for example in data.train]
    write_text(folder.path / PAIRS_FILE, "\n".join(rows) + "\n")
    write_index(folder.path, [PAIRS_FILE])
    return run


def summarise(run: RewardRun, wall_s: float, finished: bool) -> dict[str, Any]:
    """What `summary.json` says: before and after on the held-out pairs, data, time, memory."""
    recipe, rows = run.recipe, run.folder.metrics()
    summary = summary_of(recipe, run.folder, wall_s, finished) | {
        "steps": run.state.step,
        "objective": recipe.objective,
        "on": recipe.scored_on,
        "tokens_trained": run.state.tokens_trained,
        "synthetic": bool(run.data.facts["synthetic"]),
        "data": run.data.facts,
    }
    first = next((row for row in rows if row["step"] == 0 and "eval/accuracy" in row), None)
    if first is not None:
        summary["before"] = {
            "accuracy": first["eval/accuracy"],
            "accuracy_ci": [first["eval/accuracy_low"], first["eval/accuracy_high"]],
            "loss": first["eval/reward_model_loss"],
            "ece": first["eval/ece"],
            "margin_mean": first["eval/margin"],
            "margin_median": first.get("eval/margin_median"),  # earlier versions did not keep it
            "n": first["eval/n"],
            "step": first["step"],
        }
    if finished and run.data.held_out:
        facts = held_out_facts(score_examples(run.model, run.data.held_out, run.micro_batch_tokens))
        summary["after"] = facts | {"step": run.state.step}
    return summary


def _info(run: RewardRun, checkpoint: Checkpoint, after: Mapping[str, Any] | None) -> RewardModelInfo:
    earlier = read_info(checkpoint.folder) if is_reward_model(checkpoint.folder) else None
    rules = {*run.data.facts["synthetic"], *(earlier.rules if earlier else ())}
    return RewardModelInfo(
        objective=run.recipe.objective,
        on=run.recipe.scored_on,
        template=template_of(run.recipe, checkpoint),
        offset=after["score_mean"] if after is not None and run.recipe.objective == "pairwise" else 0.0,
        synthetic=bool(rules),
        rules=tuple(sorted(rules)),
        recipe_hash=run.folder.recipe_hash,
    )
