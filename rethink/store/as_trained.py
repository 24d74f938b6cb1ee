"""How a model is used as it was trained: `rethink.json` in its folder, written by its run and read by every verb.

    run ─► prompt · answer rule · rewards · tasks · evaluation ─► rethink.json ─► sample, chat, serve, eval, export

The file travels with the model, so it may come from a stranger. It is read with limits, and each value is checked as in
a recipe. Functions, files and models that it names are only named: nothing is run or opened because of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from rethink.errors import RecipeError, UsageError
from rethink.reading import parse_json, read_bounded_text
from rethink.recipe.base import AnyRecipe, AskingRecipe, HeldOut, ModelRecipe
from rethink.recipe.checks import check_prompt
from rethink.recipe.explain import validated
from rethink.recipe.schema import PromptSection, RewardPart, RewardSection, Section, TaskSource
from rethink.store.integrity import CHECKSUM, take_checksum, write_sealed

NAME = "rethink.json"
FORMAT = 1
"""Raised where a reader of before would misunderstand the file."""
MOST_BYTES = 1 << 20


class NamedReward(Section):
    """A reward of the run, by name."""

    name: str
    """As in the metrics."""
    builtin: str | None = None
    """The built-in reward, if `name` is another name."""
    function: str | None = None
    """The user's own function. It is named here and never run."""
    weight: float = 1.0
    """Factor in the sum."""


class AsTrained(Section):
    """What a run says of the model that it wrote."""

    format: Literal[1] = 1
    """Version of this file."""
    kind: str
    """Kind of run."""
    recipe: str
    """Name of the recipe."""
    recipe_hash: str
    """Hash of the recipe."""
    dtype: Literal["auto", "bfloat16", "float32"] = "auto"
    """Compute type, as the recipe has it."""
    prompt: PromptSection | None = None
    """How a question is rendered; None: the model answers none."""
    answer: str | None = None
    """Rule that finds the answer in a completion; None: the run had none."""
    rewards: tuple[NamedReward, ...] = ()
    """The rewards."""
    tasks: tuple[TaskSource, ...] = ()
    """Sources of problems, with their parameters."""
    steps: int | None = None
    """Optimizer updates of the run."""
    held_out: HeldOut | None = None
    """The held-out evaluation; None: the run had none."""
    best: dict[str, Any] | None = None
    """Of a model in `best/`: step, accuracy, and problems of the evaluation."""

    @property
    def reward(self) -> RewardSection:
        """The recipe's section `reward`, as far as it is known."""
        parts = tuple(RewardPart(**part.model_dump()) for part in self.rewards)
        return RewardSection.model_validate({"answer": self.answer or "answer-tag", "parts": parts})

    @property
    def stop_strings(self) -> tuple[str, ...]:
        """Strings that end a completion."""
        return () if self.held_out is None else self.held_out.stop_strings

    def said(self) -> str:
        """The prompt in a few words."""
        assert self.prompt is not None
        prompt, words = self.prompt, [f"template {self.prompt.template}"]
        if prompt.system is not None:
            words.append("system message")
        if prompt.examples:
            words.append(f"{len(prompt.examples)} example{'s' if len(prompt.examples) > 1 else ''}")
        if prompt.prefill:
            words.append(f"prefill {prompt.prefill!r}")
        return ", ".join(words)


def as_trained(recipe: AnyRecipe, recipe_hash: str) -> AsTrained:
    """What the models of a run say of themselves.

    Args:
        recipe: of the run, of any kind.
        recipe_hash: of the run.
    """
    asking = recipe if isinstance(recipe, AskingRecipe) else None
    return AsTrained(
        kind=recipe.kind,
        recipe=recipe.name,
        recipe_hash=recipe_hash,
        dtype=recipe.model.dtype if isinstance(recipe, ModelRecipe) else "auto",
        prompt=_prompt_of(recipe),
        answer=asking.reward.answer if asking else None,
        rewards=tuple(_named(part) for part in asking.reward.parts) if asking else (),
        tasks=asking.tasks if asking else (),
        steps=recipe.length,
        held_out=recipe.held_out_sampling(),
    )


def _prompt_of(recipe: AnyRecipe) -> PromptSection | None:
    """The prompt of a kind's recipe: its own section, or the fields that its section shares with that one."""
    section = getattr(recipe, "prompt", None)
    if section is None or isinstance(section, PromptSection):
        return section
    shared = [name for name in PromptSection.model_fields if hasattr(section, name)]
    return PromptSection(**{name: getattr(section, name) for name in shared})


def _named(part: RewardPart) -> NamedReward:
    return NamedReward(name=part.name, builtin=part.builtin, function=part.function, weight=part.weight)


def write_as_trained(folder: Path, record: AsTrained) -> None:
    """Write `rethink.json`, with its checksum. Raises `StorageFailure`."""
    write_sealed(folder / NAME, record.model_dump(mode="json"))


def read_as_trained(folder: Path) -> AsTrained | None:
    """What the run of a model says of it; None where there is no such file, or one of an earlier version.

    Raises:
        UsageError: it cannot be used; the message says why and what to do.
    """
    path = folder / NAME
    try:
        value = parse_json(read_bounded_text(path, MOST_BYTES))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise UsageError(f"`{path}` cannot be read ({error}). {_ADVICE}") from error
    try:
        return _checked(value)
    except (ValueError, RecipeError) as error:
        raise UsageError(f"`{path}` cannot be used: {error}. {_ADVICE}") from error


_ADVICE = "Restore it from a copy, or remove it to use the model as it is."


def _checked(value: Any) -> AsTrained | None:
    """The record in a JSON value.

    Raises:
        ValueError: it is none, or not what was written.
        RecipeError: a value in it is not allowed.
    """
    if not isinstance(value, Mapping):
        raise ValueError("it is no object")
    value = dict(value)
    if CHECKSUM in value and not take_checksum(value):
        raise ValueError(
            f"its content does not have its checksum, so it was changed later (where that was meant, remove the line "
            f"`{CHECKSUM}`)"
        )
    version = value.get("format")
    if version is None:
        return None  # of a version that wrote only which step was best
    if version != FORMAT:
        raise ValueError(f"it has the format {str(version)[:20]!r}, and this version of Rethink reads {FORMAT}")
    record = validated(AsTrained, value, "it")
    if record.prompt is not None:
        check_prompt(record.prompt)
    record.reward  # noqa: B018 - the answer rule is checked
    return record
