"""Completions of one prompt: what `rethink sample` does."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from rethink.errors import UsageError
from rethink.machine.allocator import tune_allocator
from rethink.machine.placement import Placement
from rethink.model.loading import load_checkpoint
from rethink.model.tokenizer.tokenizer import Tokenizer
from rethink.model.trained import render_messages, renderer_of, trained_of
from rethink.rewards.extract import extract_answer
from rethink.rollout.engines import AUTO, check_there, open_engine
from rethink.store.as_trained import AsTrained
from rethink.types import Completion, GenerationRequest, Prompt, SamplingParams


@dataclass(frozen=True, slots=True)
class Answered:
    """A prompt with its completions."""

    prompt: Prompt
    completions: list[Completion]
    trained: AsTrained | None
    """How the model was trained; None: it was used as it is."""

    def turn(self, completion: Completion) -> str:
        """The assistant's whole turn, with what the prompt began of it."""
        return self.prompt.prefill + completion.text

    def answer(self, completion: Completion) -> str | None:
        """The answer in a completion, by the rule that the model was trained with; None: none, or there is no rule."""
        if self.trained is None or self.trained.answer is None:
            return None
        return extract_answer(completion.text, self.prompt.prefill, self.trained.reward.answer)


def sample_text(
    model: str,
    prompt: str | Sequence[Mapping[str, str]],
    *,
    seeds: Sequence[int],
    params: Callable[[AsTrained | None], SamplingParams],
    engine: str = AUTO,
    as_is: bool = False,
) -> Answered:
    """Generate completions of a prompt.

    Args:
        model: `embedded`, a hub id, a folder or a GGUF file.
        prompt: a text to continue, or messages: they are rendered as the model was trained, or by its chat template.
        seeds: one for each completion.
        params: how they are drawn, by how the model was trained; the model's end-of-turn tokens stop them too.
        engine: what computes.
        as_is: whether messages are rendered by the chat template, whatever the model was trained with.

    Raises:
        UsageError: the model cannot be read, has no chat template, or the prompt leaves no room; or the engine cannot
            be had.
    """
    check_there(engine)
    tune_allocator()
    checkpoint = load_checkpoint(model)
    trained = trained_of(checkpoint, as_is=as_is or isinstance(prompt, str))
    opened = open_engine(checkpoint, Placement(dtype=trained.dtype if trained else "auto"), engine=engine)
    context = opened.engine.context
    renderer = renderer_of(model, checkpoint.tokenizer, trained, context)
    rendered = (
        _raw(checkpoint.tokenizer, prompt)
        if isinstance(prompt, str)
        else render_messages(checkpoint.tokenizer, prompt, renderer)
    )
    room = context - len(rendered.token_ids)
    if room < 1:
        raise UsageError(
            f"the prompt has {len(rendered.token_ids)} tokens, but the context of {model} is {context}; shorten the "
            "prompt"
        )
    wanted = params(trained)
    stops = tuple(sorted({*wanted.stop_token_ids, *checkpoint.tokenizer.end_of_turn_ids}))
    wanted = dataclasses.replace(wanted, stop_token_ids=stops, max_new_tokens=min(wanted.max_new_tokens, room))
    completions = opened.engine.generate([GenerationRequest(rendered.token_ids, tuple(seeds), wanted)])[0]
    return Answered(rendered, completions, trained)


def _raw(tokenizer: Tokenizer, text: str) -> Prompt:
    begin = [tokenizer.bos_id] if tokenizer.adds_bos and tokenizer.bos_id is not None else []
    return Prompt(text, (*begin, *tokenizer.encode(text)))
