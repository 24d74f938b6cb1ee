"""A run on preferences from recipe to summary: set up, train, finish. `loop.py` is the part in between.

recipe ─► tokenizer · data ─► folder (new, resumed or extended) ─► model ─► reference log-probabilities ─► training
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from rethink.kinds.preference import loop
from rethink.kinds.preference.data import PreferenceData, load_data
from rethink.kinds.preference.loop import PreferenceRun, Side
from rethink.kinds.preference.recipe import PreferenceRecipe
from rethink.kinds.preference.reference import stored_logprobs
from rethink.kinds.reward_model.examples import Example
from rethink.kinds.reward_model.run import PAIRS_FILE
from rethink.kinds.sft.wire import build
from rethink.model.build import exact_weights
from rethink.model.decoder.packing import PackedGroup
from rethink.model.language_model import LanguageModel
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
from rethink.runs.ranks import share_reference
from rethink.runs.rounds import shared_optimizer
from rethink.runs.session import open_run, summary_of
from rethink.store.atomic import write_text
from rethink.store.integrity import write_index
from rethink.store.run_folder import RunFolder

LOW, HIGH = 1.0, 4 / 3
"""Bounds that KTO's paper gives for (weight times number of good answers) over that of bad ones."""


def train_preference(
    recipe: PreferenceRecipe, out: Path, *, resume: bool = False, progress: Progress
) -> dict[str, Any]:
    """Run a recipe in the folder `out` and return its summary (also `summary.json`).

    Args:
        recipe: the run.
        out: its folder.
        resume: go on with what `out` holds. An empty or missing folder starts.
        progress: where to show what happens.

    Raises:
        UsageError: the recipe, model, data or folder does not allow the run; nothing was started.
        RunFailure: the run had to stop; its last checkpoint is sound.
    """
    started = time.perf_counter()
    check_trackers(recipe.trackers)
    checkpoint = load_model(recipe.model)
    progress.phase("data")
    data = read_data(recipe, checkpoint)
    steps = recipe.total_steps(len(data.examples.train))
    check_warmup(recipe.optimizer, steps)
    folder = open_run(
        recipe,
        out,
        resume=resume,
        steps=steps,
        choices=lambda: training_choices(recipe, checkpoint.config),
        also=model_hash(recipe.model.path, checkpoint.folder) | {"the examples of `data`": data.examples.digest},
    )
    parts = Loop(
        step=loop.one_step,
        evaluate=loop.evaluate_now,
        holds_out=lambda run: bool(run.held_out.examples),
        write=loop.write,
        summarise=summarise,
        export=lambda run, _, path: run.export(path),
    )

    def make() -> PreferenceRun:
        return assemble(recipe, checkpoint, folder, data, steps, progress)

    return run_training(folder, progress, make, parts, started)


def read_data(recipe: PreferenceRecipe, checkpoint: Checkpoint) -> PreferenceData:
    """The recipe's examples, in the ids of the model's tokenizer. Raises as `load_data`."""
    context = checkpoint.config.max_position_embeddings if checkpoint.config is not None else 2**31
    return load_data(recipe, checkpoint.tokenizer, context)


def assemble(
    recipe: PreferenceRecipe,
    checkpoint: Checkpoint,
    folder: RunFolder,
    data: PreferenceData,
    steps: int,
    progress: Progress,
) -> PreferenceRun:
    """Build every part, and put a resumed run's state into them."""
    choices, train = folder.choices, data.examples.train
    placement = apply_choices(choices)
    needs, in_memory = recipe.algorithm.objective.needs, recipe.algorithm.reference == "model"
    longest = max(example.tokens for example in train)
    check_training_room(
        recipe.optimizer, checkpoint.config, choices, longest, recipe.batch_size * longest, reference=in_memory
    )
    progress.phase("model")
    model = build(recipe, checkpoint, placement)
    _notes(recipe, checkpoint, data, progress)
    limit = int(choices["micro_batch_tokens"])
    sides = Side(train, data.train_kl), Side(data.examples.held_out, data.held_out_kl)
    if "reference" in needs and not in_memory:
        sides = known_sides(folder, model, sides, limit, progress)
    reference = model.clone() if in_memory else None
    run = PreferenceRun(
        recipe,
        folder,
        model,
        reference,
        shared_optimizer(recipe, checkpoint, model, exact_weights(checkpoint, model), choices),
        *sides,
        data.examples.facts,
        steps,
        progress,
        limit,
        lambda path: save_hf_folder(path, model.hf_tensors(), checkpoint.hf_config, checkpoint.tokenizer),
    )
    run.state, _ = restore(folder, run.optimizer, None, progress.note)
    if reference is not None:
        share_reference(run.optimizer.ranks, reference)
    run.trackers = trackers_of(run)
    _write_pairs(folder, train)
    return run


def known_sides(
    folder: RunFolder, model: LanguageModel, sides: tuple[Side, Side], limit: int, progress: Progress
) -> tuple[Side, Side]:
    """Both sides with the log-probabilities of the reference model, which `model` still is."""
    groups = [group for side in sides for group in _joined(side)]
    made_with = {name: str(value) for name, value in folder.choices.items()}
    made_with["model"] = folder.inputs.get("model.path", "")

    def done(number: int, of: int) -> None:
        progress.phase("reference", number, of)

    values = iter(stored_logprobs(folder.path, model, groups, limit, made_with, (done, progress.note)))
    known = []
    for side in sides:
        own = [next(values) for _ in side.examples]
        if side.kl_groups:  # the last answer of each group is that to another prompt
            known.append(Side(side.examples, side.kl_groups, [v[:-1] for v in own], [v[-1:] for v in own]))
        else:
            known.append(Side(side.examples, (), own))
    return known[0], known[1]


def _joined(side: Side) -> list[PackedGroup]:
    """Each prompt with all answers to be computed behind it."""
    groups = [example.group for example in side.examples]
    if not side.kl_groups:
        return groups
    pairs = zip(groups, side.kl_groups, strict=True)
    return [PackedGroup(group.prompt_ids, [*group.completions, *other.completions]) for group, other in pairs]


def _notes(recipe: PreferenceRecipe, checkpoint: Checkpoint, data: PreferenceData, progress: Progress) -> None:
    """Say what the user should know before the first step."""
    facts, options = data.examples.facts, recipe.algorithm.options
    if checkpoint.config is None:
        progress.note(checkpoint.through_transformers)
    if not data.examples.held_out:
        progress.note("Nothing is held out, so the accuracy of the implicit reward cannot be reported.")
    if facts.get("kl_answers_cut"):
        progress.note(
            f"{facts['kl_answers_cut']} of the answers to other prompts, from which the KL is estimated, are cut to "
            "what fits."
        )
    share = facts.get("share_good")
    if share and {"desirable", "undesirable"} <= options.keys():
        ratio = options["desirable"] * share / (options["undesirable"] * (1 - share))
        if not LOW * 0.99 <= ratio <= HIGH * 1.01:
            progress.note(
                f"{share:.0%} of the answers are good ones: weight times number of the good is {ratio:.2f} of that of "
                "the bad, and the paper recommends 1 to 1.33. Set algorithm.options.desirable or "
                "algorithm.options.undesirable."
            )


def _write_pairs(folder: RunFolder, train: list[Example]) -> None:
    rows = [json.dumps(example.preference.row(), ensure_ascii=False) for example in train]
    write_text(folder.path / PAIRS_FILE, "\n".join(rows) + "\n")
    write_index(folder.path, [PAIRS_FILE])


def summarise(run: PreferenceRun, wall_s: float, finished: bool) -> dict[str, Any]:
    """What `summary.json` says: before and after on the held-out examples, data, time, memory."""
    summary = summary_of(run.recipe, run.folder, wall_s, finished) | {
        "steps": run.state.step,
        "objective": run.recipe.algorithm.type,
        "tokens_trained": run.state.tokens_trained,
        "synthetic": bool(run.facts["synthetic"]),
        "data": run.facts,
    }
    evaluated = {int(row["step"]): row for row in run.folder.metrics() if "eval/preference_loss" in row}
    found = {"before": evaluated.get(0), "after": evaluated.get(run.state.step) if finished else None}
    held_out = {when: _facts(row) for when, row in found.items() if row is not None}
    return summary | ({"held_out": held_out} if held_out else {})


def _facts(row: dict[str, Any]) -> dict[str, Any]:
    return {
        "accuracy": row["eval/accuracy"],
        "accuracy_ci": [row["eval/accuracy_low"], row["eval/accuracy_high"]],
        "loss": row["eval/preference_loss"],
        "margin_mean": row["eval/margin"],
        "margin_median": row["eval/margin_median"],
        "n": row["eval/n"],
        "step": row["step"],
    }
