"""Held-out evaluation during a run: one completion a problem, scored by the run's own rubric."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

from rethink.eval.statistics.estimates import wilson_interval
from rethink.model.text.prompt import PromptRenderer
from rethink.rewards.rubric import Rubric
from rethink.rollout.engine import RolloutEngine
from rethink.rollout.sampler import Asked, sample
from rethink.types import Problem, Rollout, SamplingParams, is_right


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Accuracy and format are shares of the problems that could be judged, `truncated` is one of all."""

    accuracy: float
    accuracy_low: float
    accuracy_high: float
    format: float
    length_mean: float
    """Tokens."""
    truncated: float
    n: int
    """Problems asked."""
    judged: int
    """Problems that could be judged: accuracy and its interval are of these."""
    rollouts: tuple[Rollout, ...]

    def rows(self) -> list[dict[str, object]]:
        """One row a problem, as the run's folder keeps them."""
        return [rollout_row(r) | {"token_ids": r.completion.token_ids.tolist()} for r in self.rollouts]

    def first(self, number: int) -> tuple[float, int]:
        """Accuracy on the first problems only, and how many of them were judged: to compare evaluations of any size."""
        right = [value for r in self.rollouts[:number] if (value := _right(r)) is not None]
        return _share(right), len(right)

    def metrics(self) -> dict[str, float]:
        """As `metrics.jsonl` has it."""
        return {f"eval/{field.name}": getattr(self, field.name) for field in fields(self) if field.name != "rollouts"}


def evaluate(
    engine: RolloutEngine,
    renderer: PromptRenderer,
    rubric: Rubric,
    problems: Sequence[Problem],
    params: SamplingParams,
    seeds: Sequence[int],
    on_ended: Callable[[int], None] = lambda _: None,
) -> Evaluation:
    """Sample one completion for each problem and score it.

    A problem whose gold answer cannot be read (the accuracy part abstains) is left out of accuracy and its interval
    (Wilson, 95 %); a checker that failed counts as wrong.
    """
    asked = [Asked(p, renderer.render(p), (seed,)) for p, seed in zip(problems, seeds, strict=True)]
    # Rules alone: nothing of a reward model's is reported.
    rollouts = sample(engine, rubric, asked, params, models=False, on_ended=on_ended).rollouts
    right = [v for r in rollouts if (v := _right(r)) is not None]
    low, high = wilson_interval(sum(right), len(right)) if right else (0.0, 1.0)
    return Evaluation(
        accuracy=_share(right),
        accuracy_low=low,
        accuracy_high=high,
        format=_share([_score(r, "format") for r in rollouts]),
        length_mean=sum(len(r.completion.token_ids) for r in rollouts) / max(len(rollouts), 1),
        truncated=_share([float(r.completion.finish_reason == "length") for r in rollouts]),
        n=len(rollouts),
        judged=len(right),
        rollouts=tuple(rollouts),
    )


def rollout_row(rollout: Rollout) -> dict[str, object]:
    """What every kept evaluation says of a completion; `right` is None where it could not be judged."""
    problem, completion = rollout.problem, rollout.completion
    return {
        "problem_id": problem.id,
        "task": problem.task,
        "question": problem.question,
        "answer": problem.answer,
        "prompt": rollout.prompt.text,
        "text": completion.text,
        "accuracy": _score(rollout, "accuracy"),
        "right": _right(rollout),
        "format": _score(rollout, "format"),
        "finish_reason": completion.finish_reason,
        "tokens": len(completion.token_ids),
    }


def _right(rollout: Rollout) -> float | None:
    outcome = rollout.outcomes.get("accuracy")
    if outcome is None or (outcome.score is None and outcome.failure is None):
        return None
    return float(is_right(outcome.score))


def _score(rollout: Rollout, part: str) -> float | None:
    outcome = rollout.outcomes.get(part)
    return None if outcome is None else outcome.score


def _share(values: Sequence[float | None]) -> float:
    known = [v for v in values if v is not None]
    return sum(known) / len(known) if known else 0.0
