"""A run from recipe to summary: set up, train, finish. `loop.py` is the part in between.

recipe ─► checks ─► folder (new, resumed or extended) ─► model · engine · tasks · rubric ─► GRPO ─► summary · report
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rethink.errors import RunFolderError
from rethink.kinds.grpo import loop
from rethink.kinds.grpo.collect import Sources
from rethink.kinds.grpo.critic import check_ranks, critic_config, critic_hash, open_critic, read_critic
from rethink.kinds.grpo.data import rubric_of, task_mix
from rethink.kinds.grpo.feed import Feed
from rethink.kinds.grpo.lag import batches_due
from rethink.kinds.grpo.loop import GRPO, old_source
from rethink.kinds.grpo.penalty import Penalty, read_penalty
from rethink.kinds.grpo.recipe import Recipe
from rethink.kinds.grpo.room import check_grpo_room
from rethink.kinds.grpo.trust_region import check_trust_region
from rethink.kinds.grpo.versions import read_versions, versions_in
from rethink.model.build import exact_weights
from rethink.model.loading import Checkpoint, load_model
from rethink.model.saving import save_hf_folder
from rethink.model.text.prompt import PromptRenderer
from rethink.observe.diagnosis import diagnosis
from rethink.observe.progress import Progress
from rethink.observe.trackers import check_trackers
from rethink.recipe.checks import check_against_context
from rethink.rewards.rubric import Rubric
from rethink.rollout.engine import RolloutEngine
from rethink.rollout.engines import EngineFactory, check_there, choose_engine, is_corrected, open_engine
from rethink.runs.checkpoint import restore
from rethink.runs.choices import (
    apply_choices,
    check_reward_models,
    make_choices,
)
from rethink.runs.inputs import model_hash
from rethink.runs.loop import Loop, run_training, trackers_of
from rethink.runs.ranks import share_reference
from rethink.runs.rounds import shared_optimizer
from rethink.runs.session import open_run, summary_of
from rethink.seeds import draw
from rethink.store.run_folder import RunFolder
from rethink.tasks.mix import TaskMix
from rethink.types import Problem

GOLD_CHECKS = 8
"""Problems whose gold answers must score 1 before anything slow begins."""
SHOWN_SAMPLES = 3


def train(
    recipe: Recipe,
    out: Path,
    *,
    resume: bool = False,
    progress: Progress,
    engine_factory: EngineFactory | None = None,
) -> dict[str, Any]:
    """Run a recipe in the folder `out` and return its summary (also `summary.json`).

    Args:
        resume: go on with what `out` holds: after a kill, or to extend a finished run by more `steps`. An empty or
            missing folder starts.
        progress: where to show what happens.

    Raises:
        UsageError: the recipe, model, task or folder does not allow the run; nothing was started.
        RunFailure: the run had to stop; its last checkpoint is sound.
    """
    started = time.perf_counter()
    check_trackers(recipe.trackers)
    check_ranks(recipe)
    if engine_factory is None:
        check_there(recipe.rollout.engine)
    checkpoint = load_model(recipe.model)
    if checkpoint.config is not None:
        check_against_context(recipe.prompt, recipe.token_limits(), checkpoint.config.max_position_embeddings)
    progress.phase("tasks")
    mix = task_mix(recipe)
    folder = open_folder(recipe, checkpoint, mix, out, resume)
    parts = Loop(
        step=loop.step,
        evaluate=loop.evaluate_now,
        holds_out=lambda run: bool(run.held_out),
        write=loop.write,
        summarise=summarise,
        export=lambda run, _, path: run.export(path),
        close=close,
    )

    def make() -> GRPO:
        return assemble(recipe, checkpoint, mix, folder, progress, engine_factory)

    return run_training(folder, progress, make, parts, started)


def close(run: GRPO) -> None:
    """Let go of the engine and the reward workers."""
    run.feed.close()


def open_folder(recipe: Recipe, checkpoint: Checkpoint, mix: TaskMix, out: Path, resume: bool) -> RunFolder:
    """The run's folder: created, or reopened where `resume` allows it.

    Raises:
        RunFolderError: the folder holds a run and `resume` is not given, holds a run of another recipe, or what the run
            reads has changed.
    """
    check_reward_models(recipe.reward)
    # A batch that was begun in another order would train on some groups twice.
    order = {"how the order of mini-batches is drawn": "by purpose"} if recipe.algorithm.mini_batches > 1 else {}
    return open_run(
        recipe,
        out,
        resume=resume,
        steps=recipe.steps,
        choices=lambda: make_choices(
            recipe, checkpoint.config, recipe.rollout.kv_budget_gb, critic_config(recipe, checkpoint)
        ),
        also=model_hash(recipe.model.path, checkpoint.folder)
        | critic_hash(recipe, checkpoint)
        | mix.row_hashes()
        | order,
    )


def assemble(
    recipe: Recipe,
    checkpoint: Checkpoint,
    mix: TaskMix,
    folder: RunFolder,
    progress: Progress,
    engine_factory: EngineFactory | None,
) -> GRPO:
    """Build every part, and put a resumed run's state into them."""
    choices = folder.choices
    placement = apply_choices(choices)
    check_grpo_room(recipe, checkpoint.config, choices, critic_config(recipe, checkpoint))
    held_out = mix.held_out(recipe.evaluation.problems) if recipe.evaluation.problems else []
    mix.gold_check((held_out or mix.train_batch(0, GOLD_CHECKS, 0))[:GOLD_CHECKS])
    note_engine(recipe.rollout.engine, checkpoint, progress)
    rubric = rubric_of(recipe, mix, choices["dtype"], choices["device"])
    note_synthetic(rubric, progress)
    progress.phase("model")
    opened = open_engine(
        checkpoint,
        placement,
        engine=engine_factory or recipe.rollout.engine,
        max_concurrent=recipe.rollout.max_concurrent,
        trust_remote_code=recipe.model.trust_remote_code,
        training=True,
    )
    engine, model = opened.engine, opened.model
    check_trust_region(recipe, model)
    check_against_context(recipe.prompt, recipe.token_limits(), engine.context)
    note_old_logprobs(recipe, engine, progress)
    stops = tuple(sorted(checkpoint.tokenizer.end_of_turn_ids))
    renderer = PromptRenderer(checkpoint.tokenizer, recipe.prompt, engine.context - recipe.longest_completion)
    check_prompts(recipe, mix, renderer, held_out)
    optimizer = shared_optimizer(recipe, checkpoint, model, exact_weights(checkpoint, model), choices)
    sources = Sources(mix, renderer, engine, rubric, stops)
    run = GRPO(
        recipe=recipe,
        folder=folder,
        model=model,
        reference=model.clone() if "reference" in recipe.algorithm.needs else None,
        optimizer=optimizer,
        sources=sources,
        feed=Feed(recipe, sources, folder, model),
        held_out=held_out,
        progress=progress,
        micro_batch_tokens=int(choices["micro_batch_tokens"]),
        critic=open_critic(recipe, checkpoint, placement, choices),
        penalty=Penalty(recipe.algorithm.beta),
        export=lambda path: save_hf_folder(path, model.hf_tensors(), checkpoint.hf_config, checkpoint.tokenizer),
    )
    restore_grpo(run)
    engine.publish(model, run.state.step)
    run.trackers = trackers_of(run)
    rubric.start()  # its workers load while the first completions are sampled
    return run


def note_engine(name: str, checkpoint: Checkpoint, progress: Progress) -> None:
    """Say where a model runs on a slower engine.

    Raises:
        ModelError: it cannot run on the engine that the recipe names.
    """
    engine = choose_engine(name, checkpoint)
    if engine.caution is not None:
        reason = checkpoint.reason or "as the recipe asks"
        progress.note(f"{checkpoint.source} runs through {engine.name} ({reason}): {engine.caution}.")


def note_synthetic(rubric: Rubric, progress: Progress) -> None:
    """Say which reward models have learned a rule, not preferences of people."""
    for name, facts in rubric.models().items():
        if facts["synthetic"]:
            progress.note(
                f"The reward model `{name}` was trained on pairs made by rule ({', '.join(facts['rules'])}), not on "
                "preferences of people."
            )


def check_prompts(recipe: Recipe, mix: TaskMix, renderer: PromptRenderer, held_out: list[Problem]) -> None:
    """Find a prompt that does not fit now, not in the middle of the run.

    Raises:
        TaskError: a held-out problem, one of the first batch, or any row of a file is too long; or there is none.
    """
    for problem in [*held_out, *mix.train_batch(0, recipe.rollout.prompts_per_batch, 0)]:
        renderer.render(problem)
    for problem in mix.long_rows(renderer.surely_fits):
        renderer.render(problem)


def note_old_logprobs(recipe: Recipe, engine: RolloutEngine, progress: Progress) -> None:
    """Say where the engine's numbers are its own, and where the old log-probabilities cost a pass of their own."""
    if is_corrected(name := recipe.rollout.engine):
        progress.note(
            f"The engine `{name}` computes otherwise than the trainer: `algorithm.correction` is "
            f"`{recipe.algorithm.correction}`, and the run cannot be repeated to the bit (docs/determinism.md)."
        )
    if old_source(recipe, exact=engine.exact_logprobs) == "pass":
        why = (
            "The old log-probabilities are those of a later policy than the one that sampled"
            if recipe.rollout.lag
            else "The engine's log-probabilities may differ from the trainer's in the last bits"
        )
        progress.note(f"{why}, so they are computed by another pass over each batch.")


def restore_grpo(run: GRPO) -> None:
    """Bring a run back to its last checkpoint that can be used: batches that cannot be sampled again must be there too.

    Rollouts that are still to be trained on from the start, and are damaged, are sampled again.
    """
    folder, per_batch, note = run.folder, run.recipe.steps_per_batch, run.progress.note

    def check(step: int) -> None:
        checkpoint = dict(folder.checkpoints())[step]
        batch, position = divmod(step, per_batch)
        for due in batches_due(batch, run.recipe.rollout.lag):
            half_used, version = position > 0 and due == batch, run.feed.version(due)
            again = not half_used and (version == step or version in versions_in(checkpoint))
            if not again and folder.read_rollouts(due) is None:
                cause = "is in the midst of it" if half_used else f"does not hold version {version}, which samples it"
                raise RunFolderError(
                    f"`{folder.rollouts_path(due)}` is missing, and the checkpoint of step {step} {cause}."
                )

    def also(checkpoint: Path, step: int) -> None:
        if run.critic is not None:
            read_critic(run.critic, checkpoint, step)

    run.state, run.old_logprobs = restore(folder, run.optimizer, run.reference, note, check, also)
    if run.reference is not None and run.recipe.algorithm.kl_coefficient > 0:
        share_reference(run.optimizer.ranks, run.reference)
    if run.state.step:
        checkpoint = dict(folder.checkpoints())[run.state.step]
        run.feed.kept = read_versions(checkpoint)
        run.feed.positions.read(checkpoint)
        run.penalty = read_penalty(checkpoint, run.recipe.algorithm)
    for batch in folder.batches():
        if batch * per_batch >= run.state.step:
            try:
                folder.read_rollouts(batch)
            except RunFolderError as error:
                note(f"{error} Its rollouts are sampled again.")
                folder.rollouts_path(batch).unlink()


def summarise(run: GRPO, wall_s: float, finished: bool) -> dict[str, Any]:
    """What `summary.json` says: before and after on the held-out problems, samples, time, memory."""
    rows = run.folder.metrics()
    summary = summary_of(run.recipe, run.folder, wall_s, finished)
    summary |= {"steps": run.state.step, "tokens_total": run.state.tokens_total}
    if models := run.sources.rubric.models():
        summary["reward_models"] = models
    ends = {"before": 0} | ({"after": run.state.step} if finished else {})
    for name, step in ends.items():
        row = next((row for row in rows if row["step"] == step and "eval/accuracy" in row), None)
        if row is not None:
            summary[name] = _evaluation_summary(row)
            samples = run.folder.read_samples(f"step-{step:06d}") or []
            summary[f"samples_{name}"] = [_sample_summary(sample) for sample in samples[:SHOWN_SAMPLES]]
            if name == "after" and samples:
                summary["tried"] = _tried(run, samples)
    if found := diagnosis(rows):
        summary["diagnosis"] = found.text
    if run.state.best_step is not None:
        summary["best"] = {"step": run.state.best_step, "accuracy": run.state.best_accuracy}
    return summary


def _tried(run: GRPO, samples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A held-out problem of the last evaluation with the model's turn, one that was solved where there is any.

    `seed` is what it was drawn with, where that counts.
    """
    place = next((i for i, sample in enumerate(samples) if sample["right"] == 1), 0)
    prefill = run.sources.renderer.render(run.held_out[place]).prefill
    tried = _sample_summary(samples[place]) | {"turn": prefill + samples[place]["text"]}
    if run.recipe.evaluation.temperature > 0:
        tried["seed"] = draw("evaluation", run.recipe.seed, run.state.step, place)
    return tried


def _evaluation_summary(row: dict[str, Any]) -> dict[str, Any]:
    out = {key: row[f"eval/{key}"] for key in ("accuracy", "format", "length_mean", "truncated", "n")}
    # Runs that an earlier version began have no count of the judged.
    out["judged"] = row.get("eval/judged", row["eval/n"])
    return out | {"accuracy_ci": [row["eval/accuracy_low"], row["eval/accuracy_high"]], "step": row["step"]}


def _sample_summary(sample: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "question": sample["question"],
        "gold": sample["answer"],
        "completion": sample["text"],
        "accuracy": sample["accuracy"],
        "format": sample["format"],
    }
