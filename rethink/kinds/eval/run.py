"""The stage `eval`: one model on held-out problems, a chunk of them at a time, so that a killed one goes on.

evaluations/chunk-000000.parquet, …   every completion with its scores
summary.json                          means with 95 % intervals, all tasks together and each
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rethink.analysis.language import language_share
from rethink.analysis.readability import readability
from rethink.analysis.reflection import count_reflection, reflection_rate
from rethink.eval.heldout import rollout_row
from rethink.eval.statistics.estimates import bootstrap_interval, mean_interval
from rethink.kinds.eval.recipe import EvalRecipe
from rethink.model.loading import Checkpoint, load_model
from rethink.model.text.prompt import PromptRenderer
from rethink.model.text.thoughts import thought_of
from rethink.observe.progress import Progress
from rethink.recipe.checks import check_against_context
from rethink.rewards.rubric import Rubric, build_rubric, closing
from rethink.rollout.engine import RolloutEngine
from rethink.rollout.engines import open_engine
from rethink.rollout.sampler import Asked, sample
from rethink.runs.choices import apply_choices, computing_choices, kv_choice
from rethink.runs.inputs import model_hash
from rethink.runs.session import at_work, open_run, summary_of
from rethink.seeds import draw
from rethink.store.run_folder import RunFolder
from rethink.tasks.mix import build_task_mix
from rethink.types import Problem, Prompt, Rollout, SamplingParams

SEEDS = ("how seeds are drawn", "by purpose")
"""Recorded where samples depend on it: an evaluation that was begun with other seeds does not go on."""
CHUNK = 64
"""Problems that are answered and written together."""
METRICS = ("accuracy", "format", "length", "truncated", "language", "readability", "tags", "repetition", "reflection")
"""What a summary holds, each as `{mean, low, high, n}`; a problem whose samples have no value is left out."""

PROPORTIONS = ("accuracy", "format", "truncated", "language", "reflection")
"""Those whose interval is a proportion's (Wilson) where all problems agree; of the others it then has no width."""


def run_eval(recipe: EvalRecipe, out: Path, *, resume: bool = False, progress: Progress) -> dict[str, Any]:
    """Answer the held-out problems and return the summary (also `summary.json`).

    Raises:
        UsageError: the recipe, model, task or folder does not allow it; nothing was started.
        EngineFailure: generation broke; the chunks that were written stay.
    """
    started = time.perf_counter()
    checkpoint = load_model(recipe.model)
    if checkpoint.config is not None:
        check_against_context(recipe.prompt, recipe.token_limits(), checkpoint.config.max_position_embeddings)
    mix = build_task_mix(recipe.tasks, recipe.reward, recipe.seed)
    seeds = {SEEDS[0]: SEEDS[1]} if recipe.temperature > 0 else {}
    folder = open_run(
        recipe,
        out,
        resume=resume,
        steps=1,
        choices=lambda: _choices(recipe, checkpoint),
        also=model_hash(recipe.model.path, checkpoint.folder) | mix.row_hashes() | seeds,
    )
    with at_work(folder, progress) as stop_requested:
        problems = mix.held_out(recipe.problems)
        mix.gold_check(problems[:8])
        rubric = build_rubric(recipe.reward, mix.judges(), mix.rewarded())
        engine, renderer, stops = _engine(recipe, checkpoint, folder)
        prompts = [renderer.render(problem) for problem in problems]
        chunks = [range(first, min(first + CHUNK, len(problems))) for first in range(0, len(problems), CHUNK)]
        progress.start(len(chunks))
        with closing(rubric), contextlib.closing(engine):
            for number, chunk in enumerate(chunks):
                name = f"chunk-{number:06d}"
                if stop_requested():
                    break
                progress.phase("evaluation", chunk.start, len(problems))
                if folder.read_samples(name) is None:
                    folder.write_samples(name, _answer(recipe, engine, rubric, problems, prompts, chunk, stops))
        rows = [row for name in folder.samples() for row in folder.read_samples(name) or []]
        finished = len(rows) == len(problems) * recipe.samples
        summary = summary_of(recipe, folder, time.perf_counter() - started, finished) | {
            "parts": len(chunks),
            "model": recipe.model.path,
            "tokens_total": sum(row["tokens"] for row in rows),
            **summarise(rows, recipe.samples),
        }
        folder.write_summary(summary)
        progress.close()
    return summary


def _choices(recipe: EvalRecipe, checkpoint: Checkpoint) -> dict[str, Any]:
    choices = computing_choices(recipe)
    return choices | kv_choice(choices["device"], checkpoint.config, recipe.kv_budget_gb)


def _engine(
    recipe: EvalRecipe, checkpoint: Checkpoint, folder: RunFolder
) -> tuple[RolloutEngine, PromptRenderer, tuple[int, ...]]:
    placement, trusted = apply_choices(folder.choices), recipe.model.trust_remote_code
    engine = open_engine(checkpoint, placement, trust_remote_code=trusted).engine
    renderer = PromptRenderer(checkpoint.tokenizer, recipe.prompt, engine.context - recipe.max_new_tokens)
    return engine, renderer, tuple(sorted(checkpoint.tokenizer.end_of_turn_ids))


def _answer(
    recipe: EvalRecipe,
    engine: RolloutEngine,
    rubric: Rubric,
    problems: Sequence[Problem],
    prompts: Sequence[Prompt],
    chunk: range,
    stops: tuple[int, ...],
) -> list[dict[str, Any]]:
    """Rows of one chunk."""
    params = SamplingParams(
        recipe.temperature, recipe.top_p, 0, recipe.max_new_tokens, recipe.stop_strings, stop_token_ids=stops
    )
    asked = [
        Asked(problems[i], prompts[i], tuple(draw("eval stage", recipe.seed, i, k) for k in range(recipe.samples)))
        for i in chunk
    ]
    groups = sample(engine, rubric, asked, params).groups
    return [_row(rollout, number, recipe.language) for group in groups for number, rollout in enumerate(group)]


def _row(rollout: Rollout, number: int, language: str) -> dict[str, Any]:
    turn = rollout.prompt.prefill + rollout.completion.text
    rated = readability(turn, language)
    return rollout_row(rollout) | {
        "sample": number,
        "text": turn,
        "tags": rated.tags,
        "repetition": rated.repetition,
        "paragraphs": rated.length,
        "language": language_share(thought_of(turn), language).share,
        "readability": rated.score,
        "reflects": float(bool(count_reflection(turn))),
    }


# --- what came of it ----------------------------------------------------------------------------------------------

_COLUMNS = {
    "accuracy": "right",
    "format": "format",
    "length": "tokens",
    "language": "language",
    "readability": "readability",
    "tags": "tags",
    "repetition": "repetition",
    "reflection": "reflects",
}


def summarise(rows: Sequence[Mapping[str, Any]], samples: int) -> dict[str, Any]:
    """Means with intervals over problems: `metrics`, and `tasks` with the same for each task."""
    tasks = list(dict.fromkeys(row["task"] for row in rows))
    texts = [str(row["text"]) for row in rows]
    return {
        "problems": len({row["problem_id"] for row in rows}),
        "samples": samples,
        "metrics": _metrics(rows, samples),
        "tasks": {task: _metrics([row for row in rows if row["task"] == task], samples) for task in tasks},
        "reflection_per_1000_words": reflection_rate(texts),
    }


def _metrics(rows: Sequence[Mapping[str, Any]], samples: int) -> dict[str, dict[str, float]]:
    found = {}
    for name in METRICS:
        values = problem_means(rows, name)
        if values:
            means = list(values.values())
            low, high = mean_interval(means, samples) if name in PROPORTIONS else bootstrap_interval(means)
            found[name] = {"mean": sum(means) / len(means), "low": low, "high": high, "n": len(means)}
    return found


def problem_means(rows: Sequence[Mapping[str, Any]], metric: str) -> dict[str, float]:
    """Mean over the samples of each problem, by its id; problems without a value are left out."""
    values: dict[str, list[float]] = {}
    for row in rows:
        value = float(row["finish_reason"] == "length") if metric == "truncated" else row[_COLUMNS[metric]]
        if value is not None:
            values.setdefault(row["problem_id"], []).append(float(value))
    return {problem: sum(of) / len(of) for problem, of in values.items()}
