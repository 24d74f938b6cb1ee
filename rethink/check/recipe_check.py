"""A check from recipe to report.

recipe ─► tasks ─► gold answers ─► model ─► prompts ─► cheats ─► a few groups ─► cost ─► findings

What cannot be loaded is a finding, and the check goes on with what does not need it.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

from rethink.check import measure
from rethink.check.findings import judge
from rethink.check.found import Report
from rethink.errors import UsageError
from rethink.kinds.grpo.collect import Sources
from rethink.machine.limits import free_memory
from rethink.machine.placement import Placement
from rethink.model.loading import Checkpoint, load_model
from rethink.model.text.prompt import PromptRenderer
from rethink.plan.estimate import GIB, shape_of
from rethink.recipe.base import AskingRecipe
from rethink.recipe.checks import check_against_context
from rethink.recipe.identity import recipe_hash
from rethink.rewards.rubric import build_rubric, closing
from rethink.rollout.engines import EngineFactory, Opened, open_engine
from rethink.runs.choices import apply_choices, computing_choices, kv_choice
from rethink.runs.examined import Examined
from rethink.runs.planning import measure_rates
from rethink.tasks.mix import TaskMix, build_task_mix
from rethink.types import Problem, Prompt

PROMPTS = 16
"""Prompts that are sampled at most."""
SECONDS = 45.0
"""No further prompts are sampled after so long."""

T = TypeVar("T")
Note = Callable[[str], None]


def check(
    recipe: AskingRecipe,
    how: Examined,
    *,
    prompts: int = PROMPTS,
    note: Note = lambda _: None,
    engine_factory: EngineFactory | None = None,
) -> Report:
    """Examine a recipe; nothing is trained and nothing written.

    Args:
        recipe: what is asked, and what scores the answers.
        how: how it samples (`checked` of its kind).
        prompts: prompts of which a group is sampled at most; 0 samples nothing and loads no weights.
        note: told what is being done.
        engine_factory: replaces the built-in choice of engine, e.g. by a `ScriptedEngine` in tests.

    Raises:
        RunFailure: an engine broke.
    """
    started = time.perf_counter()
    report, reward, limit = Report(recipe.name, recipe_hash(recipe)), recipe.reward, how.rollout.max_new_tokens_at(0)
    note("tasks and gold answers")
    mix = _attempt(
        report, "tasks", lambda: build_task_mix(recipe.tasks, recipe.reward, recipe.seed, steps=recipe.length)
    )
    problems = _problems(report, how, mix) if mix else []
    if mix and problems:
        _attempt(report, "gold", lambda: measure.check_gold(report, reward, mix, problems))
    rubric = _attempt(report, "reward", lambda: build_rubric(reward, mix.judges(), mix.rewarded())) if mix else None
    checkpoint = _attempt(report, "model", lambda: load_model(recipe.model))
    if mix and problems and checkpoint is not None:
        with contextlib.nullcontext() if rubric is None else closing(rubric):
            note("prompts and cheating completions")
            rendered = _prompts(report, recipe, checkpoint, problems)
            if rendered is not None:
                placement = apply_choices(choices := _choices(recipe, how, checkpoint))
                trained = [pair for pair in rendered[1] if "/train/" in pair[0].id][:prompts]
                if rubric is not None:
                    encode = checkpoint.tokenizer.encode
                    measure.check_examples(report, recipe, rubric, encode)
                    measure.check_cheats(report, reward.answer, limit, rubric, rendered[1], encode)
                make = partial(_open, recipe, how, checkpoint, placement, engine_factory)
                if rubric is not None and trained and (opened := _attempt(report, "model", make)) is not None:
                    size = min(how.rollout.group_size, measure.MOST_GROUP)
                    note(f"up to {len(trained)} groups of {size} completions")
                    stops = sorted(checkpoint.tokenizer.end_of_turn_ids)
                    sources = Sources(mix, rendered[0], opened.engine, rubric, tuple(stops))
                    groups, seconds = measure.sample_groups(how.rollout, recipe.seed, sources, trained, SECONDS)
                    measure.check_samples(report, reward, limit, rubric, groups, seconds, mix)
                _cost(report, how, checkpoint, choices)
    judge(report, reward)
    report.seconds = time.perf_counter() - started
    return report


def _open(
    recipe: AskingRecipe, how: Examined, checkpoint: Checkpoint, placement: Placement, factory: EngineFactory | None
) -> Opened:
    return open_engine(
        checkpoint,
        placement,
        engine=factory or how.rollout.engine,
        max_concurrent=how.rollout.max_concurrent,
        trust_remote_code=recipe.model.trust_remote_code,
    )


def _attempt(report: Report, what: str, make: Callable[[], T]) -> T | None:
    """What `make` gives; where it cannot, that is a finding."""
    try:
        return make()
    except UsageError as error:
        report.problem(what, f"{what}-refused", str(error))
        return None


def _problems(report: Report, how: Examined, mix: TaskMix) -> list[Problem]:
    """Problems of the beginning, and held-out ones, which are those of a curriculum's end."""

    def draw() -> list[Problem]:
        found = mix.train_batch(0, measure.GOLD_PROBLEMS, 0)
        return found + (mix.held_out(measure.GOLD_PROBLEMS // 2) if how.held_out else [])

    return _attempt(report, "tasks", draw) or []


def _prompts(
    report: Report, recipe: AskingRecipe, checkpoint: Checkpoint, problems: Sequence[Problem]
) -> tuple[PromptRenderer, list[tuple[Problem, Prompt]]] | None:
    """What renders prompts, and the problems whose prompts fit; None where nothing can be rendered."""
    context = _context(report, recipe, checkpoint)
    if context is None:
        return None
    longest = max(recipe.token_limits().values())
    render = _attempt(report, "prompts", lambda: PromptRenderer(checkpoint.tokenizer, recipe.prompt, context - longest))
    if render is None:
        return None
    return render, measure.check_prompts(report, render, problems, context, longest)


def _context(report: Report, recipe: AskingRecipe, checkpoint: Checkpoint) -> int | None:
    """The model's context; None where the recipe's limits leave a prompt no room in it."""
    if checkpoint.config is None:
        return int(checkpoint.hf_config.get("max_position_embeddings", 0)) or 2**31
    context = checkpoint.config.max_position_embeddings

    def fits() -> int:
        check_against_context(recipe.prompt, recipe.token_limits(), context)
        return context

    return _attempt(report, "prompts", fits)


def _choices(recipe: AskingRecipe, how: Examined, checkpoint: Checkpoint) -> dict[str, Any]:
    choices = computing_choices(recipe)
    return choices | kv_choice(choices["device"], checkpoint.config, how.rollout.kv_budget_gb)


def _cost(report: Report, how: Examined, checkpoint: Checkpoint, choices: dict[str, Any]) -> None:
    """Section `cost`: predicted seconds and memory of a step, against the machine."""
    if checkpoint.config is None or how.estimate is None:
        return  # a model that only transformers knows has no shape that could be counted
    prompt = report.sections["prompts"]["mean"]
    length = report.sections.get("length")
    rewards = report.sections.get("rewards")
    _, rates = measure_rates(choices["threads"], choices["device"], choices["dtype"])
    completion = max(1, round(length["mean"])) if length else None
    expected = how.estimate(shape_of(checkpoint.config), rates, round(prompt) or None, completion)
    first = expected.phases[0]
    completions = how.rollout.prompts_per_batch * how.rollout.group_size / expected.steps_per_batch
    report.section(
        "cost",
        {
            "device": choices["device"],
            "dtype": choices["dtype"],
            "threads": choices["threads"],
            "completion_tokens": first.completion_tokens,
            "seconds_per_step": first.seconds_per_step,
            "reward_seconds_per_step": rewards["seconds_each"] * completions if rewards else 0.0,
            "hours": None if expected.total_seconds is None else expected.total_seconds / 3600,
            "memory_least_gb": expected.memory.least / GIB,
            "memory_most_gb": expected.memory.most / GIB,
            "memory_available_gb": free_memory(choices["device"]) / GIB,
        },
    )
