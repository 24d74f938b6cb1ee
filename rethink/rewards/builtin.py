"""The built-in reward parts: a table from name to the function that makes the part.

A new part is one line here, its name in `rethink.recipe.checks.BUILT_IN_PARTS`, and a factory

    def make(context: PartContext, *, option: int = 3) -> PartFunction

whose keyword-only parameters are the part's options; their annotations are what is allowed. Factories are named by
text, so the table imports nothing.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from rethink.errors import RecipeError
from rethink.rewards.extract import AnswerRule
from rethink.rewards.outcome import PartFunction

Place = Literal["here", "worker", "thread", "model"]
"""Where a part is called. `here`: in the training process, for what is linear in the text and cannot hang; `worker`: in
a process of its own with limits on time and memory; `thread`: in a thread of the training process, for parts that wait
for something and limit themselves (endpoints, a sandbox); `model`: in the training process, once a batch, for all
completions together, when they are there (a reward model)."""


@dataclass(frozen=True, slots=True)
class PartContext:
    """What a part may need beside its options."""

    answer: AnswerRule = "answer-tag"
    """Where the answer of a completion is found."""
    judges: Mapping[str, Mapping[str, Any]] | None = None
    """How answers are checked, by task name: see `rethink.tasks.judging`."""
    dtype: str = "float32"
    """What a model computes in."""
    device: str = "cpu"
    """Where a model computes."""


@dataclass(frozen=True, slots=True)
class BuiltIn:
    """One line of the table."""

    factory: str
    """`module:function`."""
    place: Place
    summary: str
    """What it scores, for the reader."""


BUILT_IN: Mapping[str, BuiltIn] = {
    "math": BuiltIn("rethink.rewards.math_reward:math_part", "worker", "the answer equals the gold, as mathematics"),
    "number": BuiltIn("rethink.rewards.math_reward:number_part", "here", "the answer is the gold number"),
    "gym": BuiltIn("rethink.rewards.gym_reward:gym_part", "worker", "what a task of reasoning-gym says"),
    "language": BuiltIn(
        "rethink.rewards.language_reward:language_part", "here", "share of the thought's words in a language"
    ),
    "judge": BuiltIn(
        "rethink.rewards.endpoint_judge:judge_part", "thread", "what a model behind an endpoint says of the answer"
    ),
    "format": BuiltIn(
        "rethink.rewards.format_reward:format_part", "here", "one thought, then one answer, nothing else"
    ),
    "code": BuiltIn("rethink.rewards.code.part:make_code", "thread", "the program passes every test, in a sandbox"),
    "format-soft": BuiltIn("rethink.rewards.format_reward:soft_format_part", "here", "a quarter for each tag"),
    "steps": BuiltIn("rethink.rewards.format_reward:steps_part", "here", "marks of steps"),
    "repetition": BuiltIn("rethink.rewards.shaping:repetition_part", "here", "penalty for repeated n-grams"),
    "overlong": BuiltIn("rethink.rewards.shaping:overlong_part", "here", "penalty near and beyond a length"),
    "cosine": BuiltIn("rethink.rewards.shaping:cosine_part", "worker", "short right answers, long wrong ones"),
    "reward-model": BuiltIn("rethink.rewards.model_reward:reward_model_part", "model", "what a reward model says"),
}
"""All parts but `accuracy`, which is what the task's own checker says."""


def make_part(name: str, params: Mapping[str, Any], context: PartContext, field: str) -> PartFunction:
    """Build a part.

    Args:
        name: of the table.
        params: its options.
        context: what the run offers.
        field: where the part is named, for messages, e.g. `reward.parts.1`.

    Raises:
        RecipeError: no such part, an option it does not have (with the nearest), or a value it does not take.
    """
    if name not in BUILT_IN:
        raise RecipeError(f"{field} is `{name}`, which is not built in; {nearest(name, BUILT_IN)}")
    module, _, function = BUILT_IN[name].factory.partition(":")
    factory: Callable[..., PartFunction] = getattr(importlib.import_module(module), function)
    options = check_options(factory, name, params, field)
    try:
        return factory(context, **options)
    except ValueError as error:
        raise RecipeError(f"{field}.params: {error} (for the part `{name}`)") from error


def check_options(factory: Callable[..., Any], name: str, params: Mapping[str, Any], field: str) -> dict[str, Any]:
    """The options of a part, checked against the keyword-only parameters of its factory.

    A factory with many takes them as one section, its parameter `options`.

    Raises:
        RecipeError: an unknown option, a missing one, or a value of another type.
    """
    from pydantic import BaseModel, ConfigDict, ValidationError, create_model

    hints = typing.get_type_hints(factory, include_extras=True)
    parameters = inspect.signature(factory).parameters.values()
    options: dict[str, Any] = {p.name: p for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY}
    section = hints.get("options")
    if section is not None:
        options = section.model_fields
    unknown = [key for key in params if key not in options]
    if unknown:
        takes = f"{nearest(unknown[0], options)}" if options else "it takes no options"
        raise RecipeError(f"{field}.params: the part `{name}` has no option `{unknown[0]}`; {takes}")
    if section is None:
        fields: dict[str, Any] = {
            key: (hints[key], ... if p.default is inspect.Parameter.empty else p.default) for key, p in options.items()
        }
        config = ConfigDict(strict=False, allow_inf_nan=False, arbitrary_types_allowed=True)
        model: type[BaseModel] = create_model("Options", __config__=config, **fields)
    else:
        model = section
    try:
        checked = model(**params)
    except ValidationError as error:
        first = error.errors()[0]
        option = ".".join(map(str, first["loc"])) or "options"
        said = first["msg"].removeprefix("Value error, ")
        raise RecipeError(f"{field}.params.{option}: {said} (for the part `{name}`)") from error
    return {"options": checked} if section is not None else {key: getattr(checked, key) for key in options}


def nearest(word: str, known: Mapping[str, Any] | typing.Iterable[str]) -> str:
    """`did you mean …? It has …`, for messages."""
    names = sorted(known)
    near = difflib.get_close_matches(word, names, n=1, cutoff=0.5)
    hint = f"did you mean `{near[0]}`? " if near else ""
    return f"{hint}There {'are' if len(names) > 1 else 'is'} {', '.join(f'`{n}`' for n in names)}"
