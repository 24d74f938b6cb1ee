"""Held-out evaluation during a run: one completion a problem, scored by the run's own rubric."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rethink.eval.statistics import wilson_interval
from rethink.model.chat import PromptRenderer
from rethink.rewards.rubric import Rubric
from rethink.rollout.engine import OnFinish, RolloutEngine
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
        return [
            {
                "problem_id": r.problem.id,
                "task": r.problem.task,
                "question": r.problem.question,
                "answer": r.problem.answer,
                "prompt": r.prompt.text,
                "text": r.completion.text,
                "token_ids": r.completion.token_ids.tolist(),
                "accuracy": _score(r, "accuracy"),
                "right": _right(r),
                "format": _score(r, "format"),
                "finish_reason": r.completion.finish_reason,
                "tokens": len(r.completion.token_ids),
            }
            for r in self.rollouts
        ]

    def first(self, number: int) -> tuple[float, int]:
        """Accuracy on the first problems only, and how many of them were judged: to compare evaluations of any size."""
        right = [value for r in self.rollouts[:number] if (value := _right(r)) is not None]
        return _share(right), len(right)

    def metrics(self) -> dict[str, float]:
        """As `metrics.jsonl` has it."""
        return {
            "eval/accuracy": self.accuracy,
            "eval/accuracy_low": self.accuracy_low,
            "eval/accuracy_high": self.accuracy_high,
            "eval/format": self.format,
            "eval/length_mean": self.length_mean,
            "eval/truncated": self.truncated,
            "eval/n": self.n,
            "eval/judged": self.judged,
        }


def evaluate(
    engine: RolloutEngine,
    renderer: PromptRenderer,
    rubric: Rubric,
    problems: Sequence[Problem],
    params: SamplingParams,
    seeds: Sequence[int],
    on_finish: OnFinish | None = None,
) -> Evaluation:
    """Sample one completion for each problem and score it.

    A problem whose gold answer cannot be read (the accuracy part abstains) is left out of accuracy and its interval
    (Wilson, 95 %); a checker that failed counts as wrong.
    """
    asked = [Asked(p, renderer.render(p), (seed,)) for p, seed in zip(problems, seeds, strict=True)]
    # Rules alone: nothing of a reward model's is reported.
    rollouts = sample(engine, rubric, asked, params, models=False, on_finish=on_finish).rollouts
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
