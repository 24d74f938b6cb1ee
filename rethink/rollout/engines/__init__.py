"""Engines that sample, a file each, and how one is opened: the one loader of every verb.

    rethink/rollout/engines/NAME.py     ENGINE = Engine(name="NAME", open=…, …)

Nothing else knows an engine's name; an installed package brings one by the entry point `rethink.engines`.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Any

from rethink.errors import ModelError, RecipeError, UsageError
from rethink.machine.placement import Placement
from rethink.recipe.registry import registered

if TYPE_CHECKING:
    from rethink.model.language_model import LanguageModel
    from rethink.model.loading import Checkpoint
    from rethink.rollout.engine import RolloutEngine

ENTRY_POINTS = "rethink.engines"
"""Group under which an installed package names its own engines: `mine = "my_package.mine:ENGINE"`."""
AUTO = "auto"
"""The first of `AUTOMATIC` that takes the model."""
AUTOMATIC = ("torch", "transformers")

EngineFactory = Callable[[Any, "Checkpoint"], "RolloutEngine"]
"""(model, checkpoint) -> engine: given in place of a name, e.g. by tests with a `ScriptedEngine`."""


@dataclass(frozen=True, slots=True)
class Opening:
    """What an engine is opened with."""

    checkpoint: Checkpoint
    placement: Placement
    """Decided, where the engine has `build`."""
    model: Any
    """What `build` made; None without it."""
    max_concurrent: int | None
    """Sequences decoded at once; None: the engine's choice."""
    logprobs: bool
    """Whether completions need log-probabilities."""


@dataclass(frozen=True, slots=True)
class Engine:
    """A way to sample, by name."""

    name: str
    """The value of `engine` in a recipe and of `--engine`."""
    open: Callable[[Opening], RolloutEngine]
    """Makes the engine."""
    build: Callable[[Checkpoint, Placement, bool], LanguageModel] | None
    """(checkpoint, placement, trust_remote_code) -> the model that it samples from, which a trainer trains; None: it
    loads the model's folder by itself."""
    refuses: Callable[[Checkpoint], str | None] = lambda _: None
    """Why it cannot run a model; None: it can."""
    check: Callable[[], None] = lambda: None
    """Raises `UsageError` where a package is missing, and says what to install."""
    trains: bool = True
    """Whether it can sample for training."""
    caution: str | None = None
    """What a user should know who gets it."""


@dataclass(frozen=True, slots=True)
class Opened:
    """A model that is loaded and can be asked."""

    engine: RolloutEngine
    name: str
    """Of the engine."""
    checkpoint: Checkpoint
    model: Any
    """The model in this process, a `LanguageModel`; None where the engine keeps it to itself."""


@dataclass(frozen=True, slots=True)
class Spreading:
    """An engine that was opened in this process, for whoever has its work done elsewhere."""

    opened: Opened
    placement: Placement
    max_concurrent: int | None
    trust_remote_code: bool


_spread: ContextVar[Callable[[Spreading], RolloutEngine] | None] = ContextVar("spread", default=None)


@contextmanager
def spread_over(spread: Callable[[Spreading], RolloutEngine]) -> Iterator[None]:
    """Within, every engine that is opened is replaced by what `spread` makes of it: a pool of workers, say."""
    token = _spread.set(spread)
    try:
        yield
    finally:
        _spread.reset(token)


def not_spread(name: str) -> UsageError:
    """That an engine cannot draw on a cluster's workers."""
    return UsageError(
        f"the engine `{name}` loads its model by itself, and cannot be spread over a cluster yet; leave the engine at "
        f"`{AUTO}`, or leave --cluster out"
    )


@cache
def engines() -> dict[str, Engine]:
    """Every engine by name: those of the package, then those of other installed packages."""
    return registered(__name__, ENTRY_POINTS, Engine, "an engine")


def engine_named(name: str) -> Engine:
    """The engine of that name.

    Raises:
        RecipeError: there is none.
    """
    found = engines().get(name)
    if found is None:
        allowed = [AUTO, *engines()]
        near = difflib.get_close_matches(name, allowed, n=1) or [AUTO]
        raise RecipeError(f"there is no engine {name!r}; allowed are {', '.join(allowed)}. Write `{near[0]}`.")
    return found


def check_engine(name: str, *, training: bool = False) -> None:
    """Refuse an engine that is not there, before anything slow.

    Args:
        name: `auto`, or that of an engine.
        training: whether it is to sample for training.

    Raises:
        RecipeError: there is none of that name, or it does not train.
        UsageError: it needs a package that is not installed.
    """
    if name == AUTO:
        return
    engine = engine_named(name)
    if training and not engine.trains:
        allowed = ", ".join([AUTO, *(other.name for other in engines().values() if other.trains)])
        raise RecipeError(
            f"the engine `{name}` cannot train yet: it samples from weights that it reads once, from a folder. Allowed "
            f"are {allowed}. Write `{AUTO}`."
        )
    if not training:
        engine.check()


def choose_engine(name: str, checkpoint: Checkpoint) -> Engine:
    """The engine of that name, or the one that `auto` means for a model.

    Raises:
        RecipeError: there is no such engine.
        ModelError: it cannot run the model.
    """
    if name == AUTO:
        return next(engine for engine in map(engine_named, AUTOMATIC) if engine.refuses(checkpoint) is None)
    engine = engine_named(name)
    if (reason := engine.refuses(checkpoint)) is not None:
        raise ModelError(
            f"the engine `{name}` cannot run {checkpoint.source}: {reason}. Leave the engine at `{AUTO}`, or choose a "
            "model of the Llama, Qwen or Mistral family"
        )
    return engine


def open_engine(
    source: str | Checkpoint,
    placement: Placement | None = None,
    *,
    engine: str | EngineFactory = AUTO,
    max_concurrent: int | None = None,
    trust_remote_code: bool = False,
    logprobs: bool = True,
) -> Opened:
    """Load a model into an engine.

    Args:
        source: what a recipe calls a model (`embedded`, a hub id, a folder, a GGUF file), or its headers. They serve
            once: the tensors of a folder are closed when they have been read.
        placement: where it computes; what it leaves open is decided here.
        engine: its name, or a factory.
        max_concurrent: sequences decoded at once; None: the engine's choice.
        trust_remote_code: whether code of the model's repository may run.
        logprobs: whether completions need log-probabilities; without, some engines are faster.

    Raises:
        UsageError: the model cannot be found, read or run by the engine, or the engine needs a package that is not
            installed.
    """
    name = engine if isinstance(engine, str) else AUTO
    check_engine(name)
    placement = placement or Placement()
    if isinstance(source, str):
        from rethink.machine.allocator import tune_allocator
        from rethink.model.loading import load_checkpoint

        tune_allocator()  # reading may convert, which takes memory
        source = load_checkpoint(source)
    chosen, model = choose_engine(name, source), None
    spread = _spread.get()
    if spread is not None and chosen.build is None:
        raise not_spread(chosen.name)
    if chosen.build is not None:
        placement = placement.decided()
        placement.apply()
        model = chosen.build(source, placement, trust_remote_code)
    if not isinstance(engine, str):
        return Opened(engine(model, source), chosen.name, source, model)
    opened = Opened(
        chosen.open(Opening(source, placement, model, max_concurrent, logprobs)), chosen.name, source, model
    )
    if spread is None:
        return opened
    return replace(opened, engine=spread(Spreading(opened, placement, max_concurrent, trust_remote_code)))
