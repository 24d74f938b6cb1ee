"""reasoning-gym itself: its data sets by name and parameters, with errors for users."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from typing import Any

from rethink.errors import TaskError

SOLUTIONS = {
    "graph_color": "possible_answer",
    "propositional_logic": "example_answer",
    "rubiks_cube": "example_correct_answer",
}
"""Tasks with many right answers and no gold one: the metadata's key of one that is right."""
REFUSED = {
    "codeio": "the library makes its problems by running program snippets that a model wrote, on this machine and "
    "unprotected; some of them write files",
    "composite": "it only mixes others; name these themselves: a recipe mixes the entries of `tasks` by their weights",
}
"""Tasks that are refused, and why."""
UNSOLVED = "Integral("
"""In a gold answer of `intermediate_integration` that the library could not find: it is the question again."""


def make_dataset(task: str, params: Mapping[str, Any]) -> Any:
    """The reasoning-gym data set of a task; its seed is fixed, since the index decides the problem.

    Raises:
        TaskError: no such task (with the nearest names), or parameters that it does not have or refuses.
    """
    import reasoning_gym
    from reasoning_gym.factory import DATASETS

    if task in REFUSED:
        raise TaskError(f"the task `{task}` of reasoning-gym is refused: {REFUSED[task]}")
    if task not in DATASETS:
        near = difflib.get_close_matches(task, sorted(DATASETS), n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}? " if near else ""
        raise TaskError(f"reasoning-gym has no task `{task}`; {hint}It has {len(DATASETS)}: see `rethink tasks`")
    _check_json(task, params)
    try:
        return reasoning_gym.create_dataset(task, **{"seed": 0, **params})
    except TypeError as error:
        known = ", ".join(getattr(DATASETS[task][1], "__dataclass_fields__", {}))
        raise TaskError(
            f"the task `{task}` does not take {dict(params)} ({error}); its parameters are {known}"
        ) from error
    except (AssertionError, ValueError, KeyError, AttributeError) as error:
        reason = f": {error}" if str(error) else ""
        raise TaskError(f"the task `{task}` refuses {dict(params)}{reason}; change these parameters") from error


def gold_answer(task: str, entry: Mapping[str, Any]) -> str | None:
    """The right answer to an entry, or one of several; None where the library knows none."""
    answer = entry["answer"]
    if answer is None and task in SOLUTIONS:
        answer = entry["metadata"][SOLUTIONS[task]]
        return answer if isinstance(answer, str) else json.dumps(answer)
    return None if answer is None or UNSOLVED in str(answer) else str(answer)


def _check_json(task: str, params: Mapping[str, Any]) -> None:
    try:
        json.dumps(params)
    except (TypeError, ValueError) as error:
        raise TaskError(f"the parameters of `{task}` must be plain values (JSON): {error}") from error
