"""The one way to ask problems.

    problem ─► prompt and seeds ─► engine ─► completions ─► rubric, as each ends ─► rollouts, in order

What is asked (`Asked`) and what comes of it (`Rollout`) are plain data.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rethink.errors import EngineFailure, RethinkError
from rethink.kernels.trace import span, traced
from rethink.rewards.rubric import Rubric
from rethink.rollout.engine import OnFinish, RolloutEngine
from rethink.types import Completion, GenerationRequest, Problem, Prompt, Rollout, SamplingParams


@dataclass(frozen=True, slots=True)
class Asked:
    """A problem as it is put to the model."""

    problem: Problem
    prompt: Prompt
    seeds: tuple[int, ...]
    """One for each completion that is wanted."""
    version: int | None = None
    """Of the weights that must answer; None: those that the engine has."""


@dataclass(frozen=True, slots=True)
class Sampled:
    """The rollouts of each problem, in the order of its seeds, and what they took."""

    groups: list[list[Rollout]]
    rollout_seconds: float
    reward_seconds: float
    """Beyond the end of generation."""

    @property
    def rollouts(self) -> list[Rollout]:
        """All of them, group after group."""
        return [rollout for group in self.groups for rollout in group]


def sample(
    engine: RolloutEngine,
    rubric: Rubric,
    asked: Sequence[Asked],
    params: SamplingParams,
    *,
    step: int | None = None,
    models: bool = True,
    on_ended: Callable[[int], None] = lambda _: None,
) -> Sampled:
    """Ask problems and score the answers; scoring begins while other answers are still being generated.

    Args:
        engine: who answers.
        rubric: what scores.
        asked: with as many seeds each.
        params: how answers are drawn.
        step: the update (from 0) that they are for; None: every reward applies, whatever its steps.
        models: whether reward models are asked.
        on_ended: told how many completions have ended, as each does.

    Raises:
        UsageError: a prompt leaves no room for an answer.
        EngineFailure: generation broke.
    """
    started = time.perf_counter()
    size = max((len(one.seeds) for one in asked), default=0)
    problems, prompts = [one.problem for one in asked], [one.prompt for one in asked]
    scoring = rubric.scoring(problems, prompts, size, step=step, models=models)
    ended = itertools.count(1)

    def finished(request: int, sample: int, completion: Completion) -> None:
        scoring.add(request, sample, completion)
        on_ended(next(ended))

    completions = complete(engine, asked, params, finished)
    generated = time.perf_counter()
    with span("rewards"):
        groups = [
            [Rollout(one.problem, one.prompt, completion, *said) for completion, said in zip(*group, strict=True)]
            for one, *group in zip(asked, completions, scoring.results(completions), strict=True)
        ]
    return Sampled(groups, generated - started, time.perf_counter() - generated)


def complete(
    engine: RolloutEngine, asked: Sequence[Asked], params: SamplingParams, on_finish: OnFinish | None = None
) -> list[list[Completion]]:
    """The answers alone. Raises as `sample`."""
    now = engine.version
    requests = [
        GenerationRequest(one.prompt.token_ids, one.seeds, params, version=now if one.version is None else one.version)
        for one in asked
    ]
    return run_engine(engine, requests, on_finish)


@traced("rollout")
def run_engine(
    engine: RolloutEngine, requests: Sequence[GenerationRequest], on_finish: OnFinish | None = None
) -> list[list[Completion]]:
    """Generate; whatever breaks inside an engine becomes an `EngineFailure` that says what was asked of it."""
    try:
        return engine.generate(requests, on_finish)
    except (RethinkError, KeyboardInterrupt):
        raise
    except Exception as error:
        raise EngineFailure(
            f"the engine failed while sampling {sum(request.n for request in requests)} completions of {len(requests)} "
            f"prompts ({type(error).__name__}: {error}). What was saved stays: run the same command again, a recipe's "
            "with --resume. If memory ran out, lower the recipe's `max_concurrent` or `kv_budget_gb`."
        ) from error
