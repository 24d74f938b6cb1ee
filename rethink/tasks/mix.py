"""The mixture of a recipe's sources: the position of each problem in a run, and the held-out problems.

Everything is a function of (tasks, seed, position): a resumed run draws what the uninterrupted one would have drawn.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import NamedTuple

from rethink.errors import TaskError
from rethink.recipe.checks import needs_gold
from rethink.recipe.choosing import DifficultySection
from rethink.recipe.schema import RewardSection, TaskSource
from rethink.seeds import draw
from rethink.tasks.gym.problems import GymSource
from rethink.tasks.judge import JudgeSpec
from rethink.tasks.rows import RowSource, hub_source, jsonl_source, python_source
from rethink.tasks.source import KeepsKey, Source
from rethink.tasks.split import Split, split_of
from rethink.types import Problem, is_right

_BUILDERS: Mapping[str, Callable[[str, TaskSource, int, bool], Source]] = {
    "reasoning-gym": lambda name, task, seed, gold: GymSource(name, task, seed),
    "jsonl": jsonl_source,
    "hub": hub_source,
    "python": python_source,
}


class Measured(NamedTuple):
    """How often a problem was solved when it was last asked."""

    rate: float
    epoch: int
    """Of its source."""


@dataclass(frozen=True, slots=True)
class Position:
    """Where the problems of a rollout batch begin."""

    batch: int
    taken: tuple[int, ...]
    """Problems that each source has given or left out before it, in the order of `tasks`."""
    measured: Mapping[str, Measured] = field(default_factory=dict)
    """By problem's id; of sources that choose by it (`tasks.N.difficulty`)."""


class TaskMix:
    """Sources mixed by weight; `build_task_mix` makes one.

    Args:
        tasks: the recipe's section.
        sources: one for each entry of `tasks`.
        golden: names of the sources whose gold answers a reward looks at.
        seed: of the run.
        steps: see `build_task_mix`.
        steps_per_batch: see `build_task_mix`.
    """

    def __init__(
        self,
        tasks: Sequence[TaskSource],
        sources: Sequence[Source],
        golden: Collection[str],
        seed: int,
        *,
        steps: int | None,
        steps_per_batch: int,
    ):
        self._tasks = tasks
        self._sources = sources
        self._golden = golden
        self._seed = seed
        self._steps = steps
        self._steps_per_batch = steps_per_batch
        self._by_name = {source.name: source for source in sources}
        self.split: Split = split_of(source.separate_keys() for source in sources if source.separate)
        self._next = self.start

    @property
    def start(self) -> Position:
        """Of the first batch."""
        return Position(0, (0,) * len(self._sources))

    def after(self, position: Position, number: int, step: int, rates: Mapping[str, float] | None = None) -> Position:
        """Where the next batch begins.

        Args:
            position: of this batch.
            number: of problems that were drawn for it.
            step: its first update.
            rates: measured pass rates of its problems, by id.
        """
        taken, measured = list(position.taken), dict(position.measured)
        for chosen, count in self._walk(position, number, step):
            taken[chosen] = count + 1
            source = self._sources[chosen]
            if rates and isinstance(source, RowSource):
                name, epoch = source.place(count, self._trains(source))
                if name in rates:
                    measured[name] = Measured(rates[name], epoch)
        return Position(position.batch + 1, tuple(taken), measured)

    def problems(self, position: Position, places: range, step: int) -> list[Problem]:
        """The problems at some places of a batch: however many are drawn, each has its place.

        Raises:
            TaskError: a source has no problem for training.
        """
        return [
            self._sources[chosen].train_problem(count, step, self._trains(self._sources[chosen]))
            for place, (chosen, count) in enumerate(self._walk(position, places.stop, step))
            if place in places
        ]

    def _walk(self, position: Position, number: int, step: int) -> Iterator[tuple[int, int]]:
        """(source, which of its problems) at each place of a batch."""
        taken = list(position.taken)
        for chosen in self._choices(position.batch, number, step):
            source, bounds, count = self._sources[chosen], self._tasks[chosen].difficulty, taken[chosen]
            if bounds is not None and isinstance(source, RowSource):
                while self._left_out(source, bounds, count, position.measured):
                    count += 1
            taken[chosen] = count + 1
            yield chosen, count

    def _left_out(
        self, source: RowSource, bounds: DifficultySection, count: int, measured: Mapping[str, Measured]
    ) -> bool:
        name, epoch = source.place(count, self._trains(source))
        found = measured.get(name)
        return found is not None and bounds.leaves_out(found.rate, epoch - found.epoch)

    def train_batch(self, index: int, number: int, step: int) -> list[Problem]:
        """The problems of batch `index`, whose first update is `step`, where each batch has `number` of them.

        Raises:
            TaskError: a source has no problem for training.
        """
        if index < self._next.batch:
            self._next = self.start
        while self._next.batch < index:
            self._next = self.after(self._next, number, self._next.batch * self._steps_per_batch)
        return self.problems(self._next, range(number), step)

    def held_out(self, number: int) -> list[Problem]:
        """The first `number` held-out problems: the same for every seed; fewer where there are no more.

        Raises:
            TaskError: there is none at all.
        """
        changes = (stage.step for task in self._tasks for stage in task.curriculum)
        last = max(changes, default=0) if self._steps is None else self._steps
        weights = [task.weight_at(last) for task in self._tasks]
        streams: list[Iterator[Problem] | None] = [
            source.held_out(self.split.holds_out) if weight > 0 else None
            for source, weight in zip(self._sources, weights, strict=True)
        ]
        problems: list[Problem] = []
        dice = random.Random(draw("held-out mixture"))
        while len(problems) < number and any(stream is not None for stream in streams):
            open_weights = [w if s is not None else 0.0 for w, s in zip(weights, streams, strict=True)]
            chosen = _pick(open_weights, dice.random())
            stream = streams[chosen]
            problem = next(stream, None) if stream is not None else None
            if problem is None:
                streams[chosen] = None
            else:
                problems.append(problem)
        if not problems and number:
            raise TaskError(
                "no held-out problems: one question in six is held out, and these tasks have too few. Give more "
                "problems or a separate file (tasks.held_out), or set evaluation.problems=0."
            )
        return problems

    def long_rows(self, fits: Callable[[str], bool]) -> Iterator[Problem]:
        """Problems of finite sources, which a run reaches in the end, whose question is not sure to fit."""
        for source in self._sources:
            if isinstance(source, RowSource):
                yield from source.train_rows(lambda question: not fits(question), self._trains(source))

    def row_hashes(self) -> dict[str, str]:
        """The hash of what each data set of the hub and each function gave (`tasks.0.rows`)."""
        return {
            f"tasks.{i}.rows": source.content_hash()
            for i, (task, source) in enumerate(zip(self._tasks, self._sources, strict=True))
            if isinstance(source, RowSource) and task.kind != "jsonl"  # of a JSONL file, the file itself is hashed
        }

    @property
    def names(self) -> list[str]:
        """Names of the sources, in the order of `tasks`."""
        return [source.name for source in self._sources]

    def rewarded(self) -> dict[str, frozenset[str]]:
        """Names of the reward parts that apply to a source's problems, by its name; of those that name some."""
        named = zip(self._sources, self._tasks, strict=True)
        return {source.name: frozenset(task.reward) for source, task in named if task.reward is not None}

    def needs_gold(self, problem: Problem) -> bool:
        """Whether a reward that applies to a problem looks at its gold answer."""
        return problem.task in self._golden

    def gold_score(self, problem: Problem) -> float | None:
        """What the checker of the problem's source says of its gold answer; None where it cannot judge. May raise."""
        return self._by_name[problem.task].gold_score(problem)

    def reads_gold(self, problem: Problem) -> bool:
        """Whether the checker of the problem's source can judge answers to it. May raise."""
        return self._by_name[problem.task].reads_gold(problem)

    def judges(self) -> dict[str, JudgeSpec]:
        """How each source's answers are judged, by its name: for processes without the problems."""
        return {source.name: source.judge for source in self._sources}

    def gold_check(self, problems: Sequence[Problem]) -> None:
        """Refuse to train where the checker does not give a gold answer full marks.

        Raises:
            TaskError: names the problem, its gold and what the checker said.
        """
        problems = [problem for problem in problems if self.needs_gold(problem)]
        for problem in problems:
            if problem.answer is None:
                continue  # only the task's checker knows, or the gold cannot be read: then it abstains
            try:
                score = self.gold_score(problem)
                said = f"scores it {score}"
            except Exception as error:
                score, said = None, f"fails on it ({type(error).__name__}: {error})"
            if not is_right(score):
                raise TaskError(
                    f"the gold answer {problem.answer[:200]!r} of problem {problem.id} is not right by its own "
                    f"checker, which {said}: training on it would reward nothing. Choose another tasks.checker or "
                    "tasks.answer_format, or correct the data."
                )
        if problems and all(problem.answer is None for problem in problems):
            self._all_unreadable(problems)

    def _all_unreadable(self, problems: Sequence[Problem]) -> None:
        """Gold answers that are all None are fine for tasks that judge by themselves, and for no other."""
        rows = [p for p in problems if not isinstance(self._by_name[p.task], GymSource)]
        if len(rows) == len(problems):
            try:
                abstains = not any(self.reads_gold(problem) for problem in rows)
            except Exception:  # a checker of the user's that dislikes "0" is alive
                abstains = False
            if abstains:
                raise TaskError(
                    f"no gold answer of `{rows[0].task}` can be read (the first {len(rows)} were tried), so every "
                    "reward would abstain. Set tasks.answer_key and tasks.answer_format to where the answers are."
                )

    def _choices(self, index: int, number: int, step: int) -> list[int]:
        """Which source each place of a batch draws from."""
        weights = [task.weight_at(step) for task in self._tasks]
        if len(weights) == 1:
            return [0] * number
        dice = random.Random(draw("mixture", self._seed, index))
        return [_pick(weights, dice.random()) for _ in range(number)]

    def _trains(self, source: Source) -> KeepsKey:
        return lambda key: self.split.trains(key, separate=source.separate)


def build_task_mix(
    tasks: Sequence[TaskSource],
    reward: RewardSection,
    seed: int,
    *,
    steps: int | None = None,
    steps_per_batch: int = 1,
) -> TaskMix:
    """Load every source.

    Args:
        tasks: the recipe's section.
        reward: decides which sources need gold answers.
        seed: of the run.
        steps: optimizer updates in all, at whose weights held-out problems are drawn; None: the end of the curriculum.
        steps_per_batch: updates that share a rollout batch.

    Raises:
        TaskError: a source cannot be found or read.
    """
    sources = [
        _BUILDERS[task.kind](name, task, seed, needs_gold(reward, task))
        for name, task in zip(_names(tasks), tasks, strict=True)
    ]
    golden = {source.name for source, task in zip(sources, tasks, strict=True) if needs_gold(reward, task)}
    return TaskMix(tasks, sources, golden, seed, steps=steps, steps_per_batch=steps_per_batch)


def _names(tasks: Sequence[TaskSource]) -> list[str]:
    """A short name for each source, numbered if several have the same name."""
    short = [task.name.rpartition("/")[2].removesuffix(".jsonl") or task.name for task in tasks]
    return [f"{name}-{i}" if short.count(name) > 1 else name for i, name in enumerate(short)]


def _pick(weights: Sequence[float], uniform: float) -> int:
    """The index that a uniform number in [0, 1) falls on; never one of weight 0."""
    bounds = list(accumulate(weights))
    for i, bound in enumerate(bounds):
        if uniform * bounds[-1] < bound:
            return i
    return max(i for i, weight in enumerate(weights) if weight > 0)
