"""Curation from recipe to files: what `rethink train` does with a recipe of the kind `samples`.

problems ─► samples (parts on disk) ─► rewards ─► filters ─► judge ─► choice ─► balance ─► teacher ─► + general
                                             samples.jsonl · train.jsonl · statistics.json · statistics.md

DIR/drawn/  judged/  chosen/  rewritten/  general/    parts: what was done, so that a killed run goes on
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rethink.endpoint.client import EndpointClient
from rethink.errors import RunFailure
from rethink.kinds.samples.asking import decide_by_judge, judge_samples
from rethink.kinds.samples.choose import balance, by_problem, choose, drop_duplicates
from rethink.kinds.samples.drawing import (
    different_problems,
    sample_endpoint,
    sample_problems,
    score_samples,
)
from rethink.kinds.samples.filters import UNJUDGED, first_reason, too_few
from rethink.kinds.samples.general import check_general, general_prompts, general_samples, wanted_general
from rethink.kinds.samples.models import Models
from rethink.kinds.samples.parts import Row, Stopped, in_parts, write_lines
from rethink.kinds.samples.recipe import CurateRecipe
from rethink.kinds.samples.records import GENERAL, Sample, from_row
from rethink.kinds.samples.source import judges_of, read_samples
from rethink.kinds.samples.statistics import as_markdown, summarise
from rethink.kinds.samples.teacher import check_teacher, rewrite
from rethink.model.loading import load_model
from rethink.model.text.prompt import PromptRenderer
from rethink.observe.progress import Progress
from rethink.recipe.checks import check_against_context
from rethink.recipe.schema import RewardPart, RewardSection
from rethink.rewards.rubric import Rubric, build_rubric, closing
from rethink.rollout.engines import EngineFactory
from rethink.runs.choices import computing_choices
from rethink.runs.inputs import model_hash
from rethink.runs.session import at_work, earlier_seconds, open_run, summary_of
from rethink.seeds import draw
from rethink.store.atomic import storage_errors, write_json, write_text
from rethink.store.completeness import part_numbers
from rethink.store.integrity import write_index
from rethink.store.run_folder import RunFolder
from rethink.tasks.conversations import ConversationFile, read_conversations
from rethink.tasks.judge import JudgeSpec
from rethink.tasks.mix import TaskMix, build_task_mix
from rethink.types import Completion, Problem, Prompt

GOLD_CHECKS = 32
"""Problems whose gold answers are put to their own checker before anything is drawn."""
FILES = ("samples.jsonl", "train.jsonl", "statistics.json", "statistics.md")
"""What a finished run leaves; the hash of each stands in `checksums.json`."""
SCORED_AT_ONCE = 256
"""Samples of a file in a part."""


@dataclass(frozen=True, slots=True)
class _Plan:
    """Everything that is known before a model is loaded."""

    problems: tuple[Problem, ...]
    given: tuple[Sample, ...]
    judges: dict[str, JudgeSpec]
    rows: dict[str, str]
    """Hashes of what data sets of the hub and functions gave."""
    parts: int
    general: ConversationFile | None = None
    """The user's conversations without reasoning."""


def curate(
    recipe: CurateRecipe,
    out: Path,
    *,
    resume: bool = False,
    progress: Progress,
    engine_factory: EngineFactory | None = None,
) -> dict[str, Any]:
    """Make curated samples in the folder `out` and return the summary (also `summary.json`).

    Args:
        recipe: what is drawn or read, and what is kept.
        out: the folder.
        resume: go on with what `out` holds. An empty or missing folder starts.
        progress: where to show what happens.
        engine_factory: replaces the built-in choice of engine, e.g. by a `ScriptedEngine` in tests.

    Raises:
        UsageError: the recipe, model, task or folder does not allow the run; nothing was started.
        RunFailure: an endpoint, engine or disk failed, or too few samples were kept; what was done stays.
    """
    started = time.perf_counter()
    progress.phase("tasks")
    plan = _plan(recipe)
    checkpoint = load_model(recipe.model)
    if checkpoint.config is not None:
        check_against_context(recipe.prompt, recipe.token_limits(), checkpoint.config.max_position_embeddings)
    folder = open_run(
        recipe,
        out,
        resume=resume,
        steps=plan.parts,
        choices=lambda: computing_choices(recipe),
        also=model_hash(recipe.model.path, checkpoint.folder) | plan.rows,
    )
    with at_work(folder, progress) as stop_requested:
        rubric = build_rubric(recipe.reward, plan.judges)
        models = Models(recipe, checkpoint, folder.choices, engine_factory)
        work = _Work(recipe, folder, plan, models, rubric, progress, stop_requested)
        work.check_prompts()
        earlier = earlier_seconds(folder)
        try:
            with closing(rubric), contextlib.closing(models):
                samples = work.run()
        except Stopped:
            samples = None
        wall_s = earlier + time.perf_counter() - started
        summary = _finish(recipe, folder, plan.parts, samples, wall_s, progress)
        progress.close()
    return summary


def _plan(recipe: CurateRecipe) -> _Plan:
    mix = build_task_mix(recipe.tasks, recipe.reward, recipe.seed) if recipe.tasks else None
    rows = mix.row_hashes() if mix is not None else {}
    general = None
    if recipe.general.share > 0:  # a bad line is said now
        if recipe.general.path is not None:
            general = read_conversations(recipe.general.path)
        else:
            general_prompts(recipe.general.prompts)
    if recipe.source is not None:
        given = read_samples(recipe)
        size = SCORED_AT_ONCE
        return _Plan((), given, judges_of(given, mix), rows, -(-len(given) // size), general)
    assert mix is not None
    problems = different_problems(mix, recipe.problems)
    if recipe.filters.correct == "accuracy":
        _gold_check(mix, problems, recipe)
    parts = -(-len(problems) // recipe.sampling.prompts_per_batch)
    return _Plan(tuple(problems), (), mix.judges(), rows, parts, general)


def _gold_check(mix: TaskMix, problems: Sequence[Problem], recipe: CurateRecipe) -> None:
    """As before training; answers that no rule reads are what a judge is for."""
    some = list(problems[:GOLD_CHECKS])
    if recipe.judge.params:
        some = _readable([problem for problem in some if problem.answer is not None], mix)
    mix.gold_check(some)


def _readable(problems: Sequence[Problem], mix: TaskMix) -> list[Problem]:
    """Those whose gold the checker can read. Workers ask it: a gold comes from a file, and reading it may not end."""
    reward = RewardSection(parts=(RewardPart(name="accuracy"),), answer="text", max_failure_share=1.0)
    nothing = np.zeros(0, np.float32)
    zero = Completion(np.zeros(0, np.int32), "0", nothing, nothing, "stop")
    with closing(build_rubric(reward, mix.judges())) as rubric:
        return [problem for problem in problems if rubric.score(problem, Prompt("", ()), zero)[1] is not None]


class _Work:
    """The stages in their order; each reads what an earlier process did of it."""

    def __init__(
        self,
        recipe: CurateRecipe,
        folder: RunFolder,
        plan: _Plan,
        models: Models,
        rubric: Rubric,
        progress: Progress,
        stop: Callable[[], bool],
    ):
        self._recipe, self._folder, self._plan = recipe, folder, plan
        self._models, self._rubric, self._progress, self._stop = models, rubric, progress, stop
        self._renderer: PromptRenderer | None = None
        self._client: EndpointClient | None = None

    def check_prompts(self) -> None:
        """Refuse what cannot be asked, before anything is drawn. Raises `TaskError`, `ModelError`, `RecipeError`."""
        recipe = self._recipe
        check_general(recipe, self._models)
        check_teacher(recipe, self._models)
        if recipe.endpoint.model is not None:
            self._client = EndpointClient(recipe.endpoint, "endpoint", cache=self._folder.path / "drawn" / "replies")
        if not recipe.samples_here:
            return
        path = recipe.model.path
        room = self._models.context(path) - recipe.sampling.max_new_tokens + 1
        self._renderer = PromptRenderer(self._models.checkpoint(path).tokenizer, recipe.prompt, room)
        for problem in self._plan.problems:
            if not self._renderer.surely_fits(problem.question):
                self._renderer.render(problem)

    def run(self) -> list[Sample]:
        """Every sample with its reason. Raises `Stopped`, `RunFailure`."""
        recipe, path = self._recipe, self._folder.path
        samples = self._scored()
        self._progress.phase("filters")
        for sample in samples:
            sample.reason = first_reason(sample, recipe.filters)
        unread = [sample for sample in samples if sample.reason == UNJUDGED]
        if recipe.judge.params:
            self._judge(unread, path / "judged")
            decide_by_judge(unread, recipe.judge.least)
        groups = by_problem(samples)
        if recipe.filters.duplicate is not None:
            for group in groups:
                drop_duplicates(group, recipe.filters.duplicate)
        if recipe.choose.rule == "judged":
            self._judge([s for s in samples if s.kept and s.judge is None], path / "chosen")
        for group in groups:
            choose(group, recipe.choose.rule, recipe.choose.keep)
        if recipe.balance is not None:
            balance(samples, recipe.balance, recipe.seed)
        samples = self._rewritten(samples)
        kept = sum(sample.kept for sample in samples)
        if kept < recipe.least:
            _write(self._folder, samples)
            raise RunFailure(too_few(samples, kept, recipe.least, str(path)))
        wanted = wanted_general(kept, recipe.general.share)
        general = general_samples(
            wanted, recipe, self._models, path / "general", given=self._plan.general, stop=self._stop,
            phase=self._phase("general"),
        )  # fmt: skip
        found = sum(sample.kept for sample in general)
        if found < wanted:
            self._progress.note(
                f"general.share {recipe.general.share:g} wants {wanted} samples without reasoning, and there are "
                f"{found}. Give more with general.path or general.prompts."
            )
        return samples + general

    def _scored(self) -> list[Sample]:
        recipe, plan, folder = self._recipe, self._plan, self._folder
        drawn = folder.path / "drawn"
        there = part_numbers(drawn)
        folder.drop_metrics_after(max(there, default=-1) + 1)
        recorded = max((int(row["step"]) for row in folder.metrics()), default=0)
        self._progress.start(plan.parts, len(there))
        began = [time.perf_counter()]

        def done(index: int, rows: Sequence[Row], now: bool) -> None:
            if now:  # the row comes before its part: a resumed run drops rows without one
                ended = time.perf_counter()
                row = _metrics(index + 1, rows, ended - began[0])
                if index + 1 > recorded:  # a part that was lost is made again, and has its row
                    folder.append_metrics(row)
                self._progress.step(row)
            began[0] = time.perf_counter()

        encode = self._models.checkpoint(recipe.model.path).tokenizer.encode
        if recipe.source is not None:

            def score(chunk: Sequence[Sample]) -> list[Row]:
                score_samples(chunk, self._rubric, encode)
                return [sample.row() for sample in chunk]

            rows = in_parts(
                drawn, plan.given, SCORED_AT_ONCE, lambda s: f"{s.id}\x1f{s.completion}", score, stop=self._stop,
                done=done,
            )  # fmt: skip
            return [from_row(row) for row in rows]
        renderer, client, shown = self._renderer, self._client, self._phase("rollout")

        def sample(chunk: Sequence[Problem]) -> list[Row]:
            if client is not None:
                return sample_endpoint(chunk, recipe, client, self._rubric, encode, shown)
            assert renderer is not None
            return sample_problems(chunk, recipe, self._models, renderer, self._rubric, shown)

        rows = in_parts(
            drawn, plan.problems, recipe.sampling.prompts_per_batch, lambda p: f"{p.id}\x1f{p.question}", sample,
            stop=self._stop, done=done,
        )  # fmt: skip
        return [from_row(row) for row in rows]

    def _judge(self, samples: Sequence[Sample], folder: Path) -> None:
        judge_samples(samples, self._recipe, folder, stop=self._stop, phase=self._phase("judge"))

    def _rewritten(self, samples: list[Sample]) -> list[Sample]:
        if self._recipe.teacher.model is None:
            return samples
        kept = [sample for sample in samples if sample.kept]
        new = iter(
            rewrite(
                kept, self._recipe, self._models, self._rubric, self._folder.path / "rewritten", stop=self._stop,
                phase=self._phase("teacher"),
            )
        )  # fmt: skip
        return [next(new) if sample.kept else sample for sample in samples]

    def _phase(self, name: str) -> Callable[[int, int], None]:
        return lambda done, of: self._progress.phase(name, done, of)


def _metrics(step: int, rows: Sequence[Row], seconds: float) -> dict[str, Any]:
    """A part's row, in the names of `observe/glossary.py`."""
    lengths = [row["tokens"] for row in rows]
    found: dict[str, Any] = {
        "step": step,
        "rollout/length_mean": sum(lengths) / max(len(lengths), 1),
        "rollout/length_max": max(lengths, default=0),
        "rollout/truncated": sum(row["finish_reason"] == "length" for row in rows) / max(len(rows), 1),
        "rollout/tokens": sum(lengths),
        "time/step": seconds,
    }
    for name in dict.fromkeys(name for row in rows for name in row["rewards"]):
        scores = [row["rewards"][name] for row in rows if row["rewards"].get(name) is not None]
        if scores:
            found[f"reward/{name}"] = sum(scores) / len(scores)
    return found


def _write(folder: RunFolder, samples: Sequence[Sample]) -> dict[str, Any]:
    """All files but `train.jsonl`."""
    found = summarise(samples)
    with storage_errors(folder.path):
        write_lines(folder.path / "samples.jsonl", [sample.row() for sample in samples])
        write_json(folder.path / "statistics.json", found)
        write_text(folder.path / "statistics.md", as_markdown(found))
    return found


def _finish(
    recipe: CurateRecipe,
    folder: RunFolder,
    parts: int,
    samples: list[Sample] | None,
    wall_s: float,
    progress: Progress,
) -> dict[str, Any]:
    summary = summary_of(recipe, folder, wall_s, samples is not None) | {"parts": parts}
    if samples is None:
        progress.note("Stopped; everything drawn is saved. Go on with the same command and --resume.")
    else:
        summary["statistics"] = _write(folder, samples)
        kept = [sample for sample in samples if sample.kept]
        kept.sort(key=lambda sample: draw("order", recipe.seed, sample.task, sample.id))
        write_lines(folder.path / "train.jsonl", [sample.training_row() for sample in kept])
        summary["kept"] = len(kept)
        summary["general"] = sum(sample.task == GENERAL for sample in kept)
        summary["tokens_total"] = sum(sample.tokens for sample in samples)
        summary["train"] = str(folder.path / "train.jsonl")
        write_index(folder.path, FILES)
    folder.write_summary(summary)
    return summary
