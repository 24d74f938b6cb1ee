"""Completions of one prompt: what `rethink sample` does."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from rethink.errors import UsageError
from rethink.machine.allocator import tune_allocator
from rethink.model.loading import Checkpoint, load_checkpoint
from rethink.rollout.engines import AUTO, check_there, open_engine
from rethink.types import Completion, GenerationRequest, SamplingParams


def sample_text(
    model: str,
    prompt: str | Sequence[Mapping[str, str]],
    *,
    seeds: Sequence[int],
    params: SamplingParams,
    engine: str = AUTO,
) -> list[Completion]:
    """Generate completions of a prompt.

    Args:
        model: `embedded`, a hub id, a folder or a GGUF file.
        prompt: a text to continue, or messages, which the model's chat template renders.
        seeds: one for each completion.
        params: how they are drawn; the model's end-of-turn tokens stop them too.
        engine: what computes.

    Raises:
        UsageError: the model cannot be read, has no chat template, or the prompt leaves no room; or the engine cannot
            be had.
    """
    check_there(engine)
    tune_allocator()
    checkpoint = load_checkpoint(model)
    ids = _prompt_ids(checkpoint, prompt)
    opened = open_engine(checkpoint, engine=engine)
    context = opened.engine.context
    room = context - len(ids)
    if room < 1:
        raise UsageError(
            f"the prompt has {len(ids)} tokens, but the context of {model} is {context}; shorten the prompt"
        )
    stops = tuple(sorted({*params.stop_token_ids, *checkpoint.tokenizer.end_of_turn_ids}))
    params = dataclasses.replace(params, stop_token_ids=stops, max_new_tokens=min(params.max_new_tokens, room))
    return opened.engine.generate([GenerationRequest(ids, tuple(seeds), params)])[0]


def _prompt_ids(checkpoint: Checkpoint, prompt: str | Sequence[Mapping[str, str]]) -> tuple[int, ...]:
    tokenizer = checkpoint.tokenizer
    if isinstance(prompt, str):
        begin = [tokenizer.bos_id] if tokenizer.adds_bos and tokenizer.bos_id is not None else []
        return (*begin, *tokenizer.encode(prompt))
    return tuple(tokenizer.encode(tokenizer.render_chat(prompt, add_generation_prompt=True)))
