"""From what a recipe says of a part to something that scores, in the run's process or in a worker's."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from rethink.errors import RecipeError
from rethink.recipe.reward import TASK_REWARD, Place, rewards
from rethink.rewards.builtin import PartContext, make_part
from rethink.rewards.extract import extract_answer
from rethink.rewards.judges import judge_place, reward_judges
from rethink.rewards.outcome import INVALID, PartFunction, failed, failure_of, outcome_of, run_part
from rethink.tasks.judge import Judge
from rethink.tasks.plugins import load_function, where_defined
from rethink.types import Completion, Problem, Prompt, RewardOutcome

Item = tuple[Problem, Prompt, Completion]
BatchFunction = Callable[[Sequence[Item]], Sequence[Any]]
RubricSpec = Mapping[str, Any]
"""A rubric as plain values: `answer`, `judges` (task name -> how its answers are judged), and `parts`, each with
`name`, `weight`, `builtin`, `function` and `params`; a part may have `model`, `on`, `from_step` and `until_step` too,
and the rubric `compute` (dtype and device of models)."""


@dataclass(frozen=True, slots=True)
class Part:
    """One part, ready to score."""

    name: str
    weight: float
    place: Place
    function: PartFunction | None
    batch: BatchFunction | None = None
    """In place of `function`: scores the completions of one prompt together."""
    warm: Callable[[], object] = lambda: None
    """Loads what the first call would load."""
    facts: Mapping[str, Any] | None = None
    """What a reward model was trained for; None for other parts."""
    places: Mapping[str, Place] = field(default_factory=dict)
    """Where it is called for the problems of some tasks, by name of the task; for others it is `place`."""
    from_step: int = 0
    until_step: int | None = None
    """The steps whose rollouts it scores: from the first on, before the second."""

    def where(self, task: str) -> Place:
        """Where it is called for a problem of a task."""
        return self.places.get(task, self.place)

    def holds_at(self, step: int) -> bool:
        """Whether it applies to rollouts sampled for `step` (0-based)."""
        return self.from_step <= step and (self.until_step is None or step < self.until_step)


def build_part(spec: RubricSpec, index: int) -> Part:
    """The part of that index.

    Raises:
        RecipeError: a function cannot be found or called, an unknown name, or options that the part does not take.
    """
    part = spec["parts"][index]
    built = _build(spec, part, f"reward.parts.{index}")
    return replace(built, from_step=part.get("from_step") or 0, until_step=part.get("until_step"))


def _build(spec: RubricSpec, part: Mapping[str, Any], field: str) -> Part:
    name, weight, params = part["name"], float(part["weight"]), part["params"]
    if part["function"] is not None:
        return _own(name, weight, part["function"], params, field)
    builtin = part["builtin"] or name
    context = PartContext(spec["answer"], spec["judges"], **spec.get("compute", {}))
    if builtin == TASK_REWARD:
        if params:
            raise RecipeError(f"{field}.params: the part `{name}` takes no options, but {sorted(params)} are given")
        judges = reward_judges(spec["judges"])
        places = {task: judge_place(judge) for task, judge in spec["judges"].items()}
        warm = [judge.warm for judge in judges.values()]
        score = accuracy(judges, context)
        return Part(name, weight, "here", score, None, lambda: [load() for load in warm], places=places)
    record = rewards().get(builtin)
    if record is not None and record.place == "model":
        own = {key: part[key] for key in ("model", "on") if part.get(key) is not None}
        batch: Any = make_part(builtin, {**params, **own}, context, field)
        return Part(name, weight, "model", None, batch, facts=batch.facts())
    function = make_part(builtin, params, context, field)
    warm_it, places = getattr(function, "warm", lambda: None), getattr(function, "places", {})
    assert record is not None, "make_part refuses what has no record"
    place = getattr(function, "place", None) or record.place
    return Part(name, weight, place, function, None, warm_it, places=places)


def score_items(part: Part, items: Sequence[Item]) -> list[RewardOutcome]:
    """The outcomes of a part on completions of one prompt."""
    if part.batch is None:
        assert part.function is not None
        return [run_part(part.function, *item) for item in items]
    try:
        values = part.batch(items)
        if isinstance(values, str | bytes) or not hasattr(values, "__len__"):
            said = f"returned a {type(values).__name__} where a list of {len(items)} scores is expected"
            return [failed(INVALID, said)] * len(items)
        values = list(values)
    except Exception as error:
        return [failure_of(error)] * len(items)
    if len(values) != len(items):
        return [failed(INVALID, f"returned {len(values)} scores for {len(items)} completions")] * len(items)
    return [value if isinstance(value, RewardOutcome) else outcome_of(value) for value in values]


def accuracy(judges: Mapping[str, Judge], context: PartContext) -> PartFunction:
    """What the task's checker says of the answer; 0 for a completion that gives none."""

    def score(problem: Problem, prompt: Prompt, completion: Completion) -> float | None:
        judge = judges[problem.task]
        answer = extract_answer(completion.text, prompt.prefill, context.answer)
        return judge.without_answer(problem) if answer is None else judge(problem, answer)

    return score


# --- a function of the user's own -------------------------------------------------------------------------------------

SIGNATURES = (
    "def f(problem, text, **params) -> float | None, or def f(problems, texts, **params) -> list[float | None]; both "
    "may be async"
)


def _own(name: str, weight: float, reference: str, params: Mapping[str, Any], field: str) -> Part:
    function = load_function(reference, f"{field}.function", RecipeError)
    batch = _takes_lists(function, reference, params, field)
    if not batch:

        def score(problem: Problem, prompt: Prompt, completion: Completion) -> Any:
            return _run(function(problem, prompt.prefill + completion.text, **params))

        return Part(name, weight, "worker", score)

    def score_all(items: Sequence[Item]) -> Sequence[Any]:
        problems = [problem for problem, _, _ in items]
        texts = [prompt.prefill + completion.text for _, prompt, completion in items]
        values: Sequence[Any] = _run(function(problems, texts, **params))
        return values

    return Part(name, weight, "worker", None, score_all)


def _run(value: Any) -> Any:
    """What an async function gives, once it is awaited."""
    return asyncio.run(_await(value)) if inspect.isawaitable(value) else value


async def _await(value: Any) -> Any:
    return await value


def _takes_lists(function: Callable[..., Any], reference: str, params: Mapping[str, Any], field: str) -> bool:
    """Whether it scores a list at once: its first parameter is called `problems` or its second `texts`.

    Raises:
        RecipeError: it cannot be called with a problem, a text and the options of the recipe.
    """
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # written in C: its first call will tell
        return False
    try:
        signature.bind(None, None, **params)
    except TypeError as error:
        raise RecipeError(
            f"{field}.function names {reference!r}{where_defined(function)}, which is called as f(problem, text"
            f"{''.join(f', {key}=…' for key in params)}) but is defined as f{signature} ({error}). Write "
            f"{SIGNATURES}, and give its options as {field}.params."
        ) from error
    names = [p.name for p in signature.parameters.values()][:2]
    return names[0] == "problems" or names[1:] == ["texts"]
