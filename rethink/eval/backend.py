"""What answers the questions of an evaluation: an engine in this process here, an endpoint in `endpoint_backend.py`."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from rethink.errors import ModelError, TaskError
from rethink.machine.allocator import tune_allocator
from rethink.machine.placement import Placement
from rethink.model.loading import load_checkpoint
from rethink.model.text.prompt import PromptRenderer
from rethink.model.tokenizer.tokenizer import Tokenizer
from rethink.model.trained import trained_of
from rethink.recipe.schema import PromptSection
from rethink.rollout.engine import RolloutEngine
from rethink.rollout.engines import AUTO, open_engine
from rethink.rollout.sampler import run_engine
from rethink.store.as_trained import AsTrained
from rethink.store.contents import content_hash
from rethink.types import Completion, FinishReason, GenerationRequest, Problem, SamplingParams


@dataclass(frozen=True, slots=True)
class Question:
    """A problem as it is put to the model."""

    text: str
    """The rendered prompt; for an endpoint that renders by itself, its messages as JSON."""
    token_ids: tuple[int, ...] = ()
    """Empty where the backend keeps its tokens to itself."""
    prefill: str = ""
    """What the assistant's turn begins with."""
    messages: tuple[Mapping[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Reply:
    """One completion."""

    text: str
    tokens: int
    finish_reason: FinishReason
    seconds: float
    token_ids: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Wanted:
    """One question and the seeds of the completions that are wanted of it."""

    question: Question
    seeds: tuple[int, ...]


OnReply = Callable[[int, int, Reply], None]
"""(which of the wanted, which of its seeds, reply), called in the main thread as each completion ends."""


class Backend(Protocol):
    """Puts questions to a model."""

    model: str
    """As the user named it."""
    context: int | None
    """Longest sequence; None where it is not known."""
    trained: AsTrained | None
    """How the model was trained, where it is asked so."""

    def describe(self) -> dict[str, Any]:
        """What decides the samples, for the record: engine, dtype, address."""
        ...

    def question(self, section: PromptSection, problem: Problem) -> Question:
        """The problem as this model is asked.

        Raises:
            UsageError: the prompt cannot be rendered, or leaves no room for a completion.
        """
        ...

    def answer(self, wanted: Sequence[Wanted], params: SamplingParams, on_reply: OnReply) -> None:
        """Draw every completion that is wanted.

        Raises:
            UsageError: the backend refuses the request.
            EngineFailure: it broke; replies that came before were handed over.
        """
        ...

    def close(self) -> None:
        """Let go of the model, so that another fits; nothing is asked afterwards."""
        ...


class EngineBackend:
    """A rollout engine in this process.

    Args:
        model: as the user named it.
        engine: samples completions.
        tokenizer: of the model.
        weights: what tells these weights from others under the same name, for the record.
        name: of the engine, for the record.
        trained: how the model was trained, where it is asked so.
    """

    def __init__(
        self,
        model: str,
        engine: RolloutEngine,
        tokenizer: Tokenizer,
        weights: str = "",
        name: str = "torch",
        trained: AsTrained | None = None,
    ):
        self.model = model
        self.trained = trained
        self.context: int | None = engine.context
        self._engine = engine
        self._tokenizer = tokenizer
        self._weights = weights
        self._name = name
        self._renderers: dict[int, tuple[PromptSection, PromptRenderer]] = {}

    @property
    def engine(self) -> RolloutEngine:
        """What samples."""
        return self._engine

    @property
    def tokenizer(self) -> Tokenizer:
        """Of the model."""
        return self._tokenizer

    def describe(self) -> dict[str, Any]:
        """See `Backend`."""
        return {"backend": self._name, "model": self.model, "dtype": self._engine.dtype, "weights": self._weights}

    def question(self, section: PromptSection, problem: Problem) -> Question:
        """See `Backend`."""
        try:
            prompt = self._renderer(section).render(problem)
        except TaskError as error:
            raise TaskError(
                f"{error}. For an evaluation: leave the problem out of the data (--data), or take fewer problems "
                "(--limit)"
            ) from error
        return Question(prompt.text, prompt.token_ids, prompt.prefill)

    def answer(self, wanted: Sequence[Wanted], params: SamplingParams, on_reply: OnReply) -> None:
        """See `Backend`."""
        stops = tuple(sorted({*params.stop_token_ids, *self._tokenizer.end_of_turn_ids}))
        params = replace(params, stop_token_ids=stops)
        requests = [GenerationRequest(item.question.token_ids, item.seeds, params) for item in wanted]

        def finished(request: int, sample: int, completion: Completion) -> None:
            ids = tuple(int(i) for i in completion.token_ids)
            reply = Reply(completion.text, len(ids), completion.finish_reason, completion.seconds, ids)
            on_reply(request, sample, reply)

        run_engine(self._engine, requests, finished)

    def close(self) -> None:
        """See `Backend`."""
        self._engine.close()

    def _renderer(self, section: PromptSection) -> PromptRenderer:
        if id(section) not in self._renderers:
            if section.template == "chat" and self._tokenizer.chat_template is None:
                raise ModelError(
                    f"the model {self.model} has no chat template (it is probably a base model), so it cannot be asked "
                    "by turns; use --prompting r1, which asks by the R1-Zero template, or an instruction-tuned model"
                )
            assert self.context is not None
            # The section is kept beside its renderer, so that its id stays its own.
            self._renderers[id(section)] = (section, PromptRenderer(self._tokenizer, section, self.context))
        return self._renderers[id(section)][1]


def open_backend(model: str, dtype: str | None = None, engine: str = AUTO, *, as_is: bool = False) -> EngineBackend:
    """Load a model into an engine in this process. Prompts are rendered by our code, whatever the engine.

    Args:
        model: `embedded`, a hub id, a folder or a GGUF file.
        dtype: `bfloat16` or `float32`; None: as the model was trained, else the faster one here, measured (vLLM chooses
            by itself).
        engine: its name.
        as_is: whether it does not matter how the model was trained.

    Raises:
        UsageError: the model cannot be found or read, or the engine cannot be had or run it.
    """
    tune_allocator()  # reading may convert, which takes memory
    checkpoint = load_checkpoint(model)
    trained = trained_of(checkpoint, as_is=as_is)
    placement = Placement(dtype=dtype or (trained.dtype if trained else "auto"))
    opened = open_engine(checkpoint, placement, engine=engine, logprobs=False)
    weights = fingerprint(checkpoint.folder)
    return EngineBackend(model, opened.engine, checkpoint.tokenizer, weights, opened.name, trained)


def fingerprint(folder: Path) -> str:
    """Tells the weights in a folder from others: the beginning of a hash of all files of weights, whole.

    Raises:
        RunFolderError: a file is not what was written there.
    """
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")):
        digest.update(f"{path.name} {content_hash(path)}\n".encode())
    return digest.hexdigest()[:32]
