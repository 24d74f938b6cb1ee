"""The reward of a rollout: a weighted sum of named parts; each outcome is recorded.

DeepSeek-R1 (arXiv 2501.12948, 2.2.2): accuracy and format, of equal weight.

    completion ─► Scoring.add ─► each part: here, in a worker, or in a thread ─► Scoring.results, in order
                                  reward models: once, for all completions ─────┘

Completions are added as they finish, so that checking overlaps generation. Which parts apply to a completion is decided
by its source (`tasks.N.reward`) and by the step that it is sampled for (`from_step`, `until_step`).
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from rethink.errors import RewardFailure
from rethink.recipe.schema import RewardSection
from rethink.rewards.judges import worker_spec
from rethink.rewards.outcome import SHOWN
from rethink.rewards.parts import Item, Part, RubricSpec, build_part, score_items
from rethink.rewards.reward_pool import Outcomes, RewardPool
from rethink.tasks.judge import JudgeSpec
from rethink.types import Completion, Problem, Prompt, RewardOutcome, Rollout

THREADS = 16
"""Calls of `thread` parts at once."""


@dataclass(slots=True)
class Limits:
    """What a call of a part may take."""

    seconds: float = 5.0
    memory_bytes: int = 1 << 30
    places: int | None = None
    """Workers that compute at once; None: the cores this process may use."""


@dataclass(slots=True)
class Rubric:
    """Scores completions. Workers are started when the first part needs them, or by `start`."""

    spec: RubricSpec
    parts: tuple[Part, ...]
    max_failure_share: float
    limits: Limits = field(default_factory=Limits)
    sources: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """Names of the parts that apply to a source's problems, by its name; a source that is not there has all."""
    _pool: RewardPool | None = None
    _threads: ThreadPoolExecutor | None = None

    def start(self) -> None:
        """Start the workers, where a part needs them: they load while the run does something else."""
        needed = [i for i, part in enumerate(self.parts) if "worker" in (part.place, *part.places.values())]
        if needed and self._pool is None:
            limits, spec = self.limits, worker_spec(self.spec)
            self._pool = RewardPool(
                spec, needed, seconds=limits.seconds, memory_bytes=limits.memory_bytes, places=limits.places
            )

    def models(self) -> dict[str, dict[str, Any]]:
        """What the reward models among the parts were trained for, by part: see `Scorer.facts`."""
        return {part.name: dict(part.facts) for part in self.parts if part.facts is not None}

    def close(self) -> None:
        """End the workers and threads."""
        if self._pool is not None:
            self._pool.close()
            self._pool = None
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)
            self._threads = None

    def scoring(
        self,
        problems: Sequence[Problem],
        prompts: Sequence[Prompt],
        group_size: int,
        *,
        step: int | None = None,
        models: bool = True,
    ) -> Scoring:
        """Begin to score the completions of some prompts, `group_size` of each.

        Args:
            step: the update (from 0) that they are sampled for; None: parts apply whatever their steps.
            models: whether reward models are asked.
        """
        applied = [[self._applies(part, problem, step, models) for problem in problems] for part in self.parts]
        return Scoring(self, problems, prompts, group_size, applied)

    def _applies(self, part: Part, problem: Problem, step: int | None, models: bool) -> bool:
        names = self.sources.get(problem.task)
        if names is not None and part.name not in names:
            return False
        return (step is None or part.holds_at(step)) and (models or part.place != "model")

    def score(
        self, problem: Problem, prompt: Prompt, completion: Completion
    ) -> tuple[dict[str, RewardOutcome], float | None]:
        """Outcome of every part on one completion, and the reward: see `total`."""
        scoring = self.scoring([problem], [prompt], 1)
        scoring.add(0, 0, completion)
        return scoring.results()[0][0]

    def total(self, outcomes: dict[str, RewardOutcome]) -> float | None:
        """The weighted sum of the scores.

        A part that abstains, fails or does not apply adds nothing. None where no part with a weight gave a score.
        """
        terms = [
            part.weight * score
            for part in self.parts
            if part.weight != 0 and (score := outcomes[part.name].score) is not None
        ]
        return sum(terms) if terms else None

    def submit(self, index: int, items: Sequence[Item]) -> Future[Outcomes] | Outcomes:
        """Have a part score completions of one prompt, where it belongs."""
        part = self.parts[index]
        place = part.where(items[0][0].task)
        if place == "worker":
            self.start()
            assert self._pool is not None
            return self._pool.submit(index, items)
        if place == "thread":
            if self._threads is None:
                self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="rewards")
            return self._threads.submit(score_items, part, items)
        return score_items(part, items)

    def check_failures(self, rollouts: Sequence[Rollout]) -> None:
        """Stop a run whose rewards do not work.

        Raises:
            RewardFailure: more than the allowed share of a part's outcomes failed; with the causes and an example.
        """
        for part in self.parts:
            applied = [r for r in rollouts if r.outcomes[part.name].applied]
            failed = [r for r in applied if r.outcomes[part.name].failure is not None]
            if len(failed) > self.max_failure_share * len(applied):
                causes = Counter(str(r.outcomes[part.name].failure) for r in failed).most_common(3)
                listed = "; ".join(f"{count} × {cause}" for cause, count in causes)
                example = failed[0].completion.text[-SHOWN:]
                raise RewardFailure(
                    f"the reward part `{part.name}` failed on {len(failed)} of {len(applied)} completions, more than "
                    f"reward.max_failure_share={self.max_failure_share:g} allows: {listed}. The last one of problem "
                    f"{failed[0].problem.id} ends with {example!r}. Fix the checker and continue with --resume."
                )


class Scoring:
    """Completions that are being scored: `add` each as it ends, then ask for the `results`."""

    def __init__(
        self,
        rubric: Rubric,
        problems: Sequence[Problem],
        prompts: Sequence[Prompt],
        group_size: int,
        applied: Sequence[Sequence[bool]],
    ):
        self._rubric = rubric
        self._applied = applied
        self._items: list[list[Item | None]] = [[None] * group_size for _ in prompts]
        self._of = list(zip(problems, prompts, strict=True))
        self._said: dict[tuple[int, int, int | None], Future[Outcomes] | Outcomes] = {}

    def add(self, request: int, sample: int, completion: Completion) -> None:
        """A completion has ended; usable as an engine's `on_finish`."""
        if self._items[request][sample] is not None:
            return
        item = (*self._of[request], completion)
        group = self._items[request]
        group[sample] = item
        whole = [item for item in group if item is not None]
        for index, part in enumerate(self._rubric.parts):
            if part.place == "model" or not self._applied[index][request]:
                continue
            if part.batch is None:
                self._said[index, request, sample] = self._rubric.submit(index, [item])
            elif len(whole) == len(group):
                self._said[index, request, None] = self._rubric.submit(index, whole)

    def results(
        self, completions: Sequence[Sequence[Completion]] | None = None
    ) -> list[list[tuple[dict[str, RewardOutcome], float | None]]]:
        """Outcomes and reward of every completion, by request and sample; waits for those that are not there yet.

        Args:
            completions: what the engine returned; those that it had not announced are added now.
        """
        for request, samples in enumerate(completions or ()):
            for sample, completion in enumerate(samples):
                self.add(request, sample, completion)
        self._ask_models()
        return [
            [self._result(request, sample) for sample in range(len(group))] for request, group in enumerate(self._items)
        ]

    def _ask_models(self) -> None:
        """Have each reward model score all that it applies to, in the order of the prompts."""
        for index, part in enumerate(self._rubric.parts):
            if part.place != "model":
                continue
            places = [
                (request, sample)
                for request, group in enumerate(self._items)
                for sample, item in enumerate(group)
                if self._applied[index][request] and item is not None and (index, request, sample) not in self._said
            ]
            items = [item for request, sample in places if (item := self._items[request][sample]) is not None]
            if items:
                for (request, sample), outcome in zip(places, score_items(part, items), strict=True):
                    self._said[index, request, sample] = [outcome]

    def _result(self, request: int, sample: int) -> tuple[dict[str, RewardOutcome], float | None]:
        outcomes = {}
        for index, part in enumerate(self._rubric.parts):
            if not self._applied[index][request]:
                outcomes[part.name] = RewardOutcome(None, applied=False)
                continue
            alone = part.batch is None or part.place == "model"
            said = self._said[index, request, sample if alone else None]
            found = said.result() if isinstance(said, Future) else said
            outcomes[part.name] = found[0 if alone else sample]
        return outcomes, self._rubric.total(outcomes)


@contextlib.contextmanager
def closing(rubric: Rubric) -> Iterator[Rubric]:
    """The rubric with its workers started; they end with the block, however it ends."""
    try:
        rubric.start()
        yield rubric
    finally:
        rubric.close()


def build_rubric(
    reward: RewardSection,
    judges: Mapping[str, JudgeSpec],
    rewarded: Mapping[str, frozenset[str]] | None = None,
    *,
    dtype: str = "float32",
    device: str = "cpu",
) -> Rubric:
    """The rubric of a `reward` section.

    Args:
        reward: the section.
        judges: how each source's answers are judged, by its name (`TaskMix.judges`).
        rewarded: names of the parts that apply to a source's problems (`TaskMix.rewarded`); None: all apply to all.
        dtype: what reward models compute in.
        device: where they do.

    Raises:
        RecipeError: a part's function cannot be found or called, a built-in part is given options it does not take, or
            there is no such reward model.
    """
    spec = {
        "answer": reward.answer,
        "judges": judges,
        "parts": [part.model_dump(mode="json") for part in reward.parts],
        "compute": {"dtype": dtype, "device": device},
    }
    parts = tuple(build_part(spec, index) for index in range(len(reward.parts)))
    limits = Limits(reward.seconds, int(reward.memory_gb * 2**30), reward.workers)
    return Rubric(spec, parts, reward.max_failure_share, limits, rewarded or {})
