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

from rethink.errors import ModelError, RecipeError
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
    """The model in this process: what `build` made or, of an engine without it, the trainer's, whose weights it takes
    over when they are published; None: there is none."""
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
    loads the model's folder by itself, and has a copy of the weights."""
    refuses: Callable[[Checkpoint], str | None] = lambda _: None
    """Why it cannot run a model; None: it can."""
    check: Callable[[], None] = lambda: None
    """Raises `UsageError` where a package is missing, and says what to install."""
    trains: bool = True
    """Whether it can sample for training."""
    corrected: bool = False
    """Whether another program computes its log-probabilities, so that training weighs them by default
    (`algorithm.correction`), and no run with it repeats to the bit."""
    keeps_mask: bool = False
    """Whether its completions hold their sampling mask where a request wants it."""
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
    """A model that is loaded in this process, for whoever has the work of its engine done elsewhere."""

    opened: Opened
    """Its `name` is the engine's; its `engine` is one of the model's own, where that has weights of its own."""
    placement: Placement
    max_concurrent: int | None
    trust_remote_code: bool


@dataclass(frozen=True, slots=True)
class _Spread:
    """Who has the work of engines done elsewhere."""

    make: Callable[[Spreading], RolloutEngine]
    check: Callable[[Engine], None]


_spread: ContextVar[_Spread | None] = ContextVar("spread", default=None)


@contextmanager
def spread_over(
    make: Callable[[Spreading], RolloutEngine], check: Callable[[Engine], None] = lambda engine: engine.check()
) -> Iterator[None]:
    """Within, every engine that is opened is replaced by what `make` makes of it: a pool of workers, say.

    Args:
        make: see above.
        check: raises `UsageError` where an engine cannot be had there.
    """
    token = _spread.set(_Spread(make, check))
    try:
        yield
    finally:
        _spread.reset(token)


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


def check_trains(name: str) -> None:
    """Refuse an engine that cannot sample for training; whether its packages are installed is not asked.

    Raises:
        RecipeError: there is none of that name, or it does not train.
    """
    if name != AUTO and not engine_named(name).trains:
        allowed = ", ".join([AUTO, *(other.name for other in engines().values() if other.trains)])
        raise RecipeError(
            f"the engine `{name}` cannot train: it samples from weights that it reads once, from a folder. Allowed are "
            f"{allowed}. Write `{AUTO}`."
        )


def check_there(name: str) -> None:
    """Refuse an engine that cannot be had where it samples (here, or on a cluster's workers), before anything slow.

    Raises:
        RecipeError: there is none of that name.
        UsageError: it needs a package that is not installed there.
    """
    if name != AUTO:
        engine, spread = engine_named(name), _spread.get()
        engine.check() if spread is None else spread.check(engine)


def wanted_by(recipe: Any) -> str:
    """The engine that a recipe names in its section `rollout`; `auto` where it has none."""
    return str(getattr(getattr(recipe, "rollout", None), "engine", AUTO))


def takes_own_copy(name: str) -> bool:
    """Whether an engine of that name has a copy of the weights in this process, beside the trainer's."""
    return name != AUTO and engine_named(name).build is None and _spread.get() is None


def is_corrected(name: str) -> bool:
    """Whether training weighs the log-probabilities of an engine by default; False where there is none of that name."""
    return name != AUTO and name in engines() and engines()[name].corrected


def keeps_mask(name: str) -> bool:
    """Whether an engine can say what top-p and top-k left to draw from; False where there is none of that name."""
    return name == AUTO or (name in engines() and engines()[name].keeps_mask)


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


def builder_of(name: str, checkpoint: Checkpoint) -> Engine:
    """The engine whose `build` makes the model that a trainer trains: the one of that name, or what `auto` means.

    Raises:
        RecipeError: there is no such engine.
        ModelError: it cannot run the model.
    """
    chosen = choose_engine(name, checkpoint)
    return chosen if chosen.build is not None else choose_engine(AUTO, checkpoint)


def open_engine(
    source: str | Checkpoint,
    placement: Placement | None = None,
    *,
    engine: str | EngineFactory = AUTO,
    max_concurrent: int | None = None,
    trust_remote_code: bool = False,
    logprobs: bool = True,
    training: bool = False,
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
        training: whether weights will be published, so that the model is built in this process too.

    Raises:
        UsageError: the model cannot be found, read or run by the engine, or the engine needs a package that is not
            installed.
    """
    name = engine if isinstance(engine, str) else AUTO
    check_there(name)
    placement = placement or Placement()
    if isinstance(source, str):
        from rethink.machine.allocator import tune_allocator
        from rethink.model.loading import load_checkpoint

        tune_allocator()  # reading may convert, which takes memory
        source = load_checkpoint(source)
    chosen, model, spread = choose_engine(name, source), None, _spread.get()
    opener = chosen
    if chosen.build is not None or training or spread is not None:
        builder = builder_of(name, source)
        assert builder.build is not None
        placement = placement.decided()
        placement.apply()
        model = builder.build(source, placement, trust_remote_code)
        opener = chosen if spread is None else builder  # a copy of the weights is where it samples
    if not isinstance(engine, str):
        return Opened(engine(model, source), chosen.name, source, model)
    own = opener.open(Opening(source, placement, model, max_concurrent, logprobs))
    opened = Opened(own, chosen.name, source, model)
    if spread is None:
        return opened
    return replace(opened, engine=spread.make(Spreading(opened, placement, max_concurrent, trust_remote_code)))
