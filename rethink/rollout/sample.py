"""Completions of one prompt: what `rethink sample` does."""

from __future__ import annotations

import dataclasses

import torch

from rethink.errors import UsageError
from rethink.machine.limits import usable_threads
from rethink.machine.speed import choose_dtype, measure_gemm
from rethink.model.build import build_model
from rethink.model.loading import Checkpoint, load_checkpoint
from rethink.rollout.build import build_engine
from rethink.rollout.engine import RolloutEngine
from rethink.rollout.pages import default_budget
from rethink.rollout.vllm_engine import check_vllm, load_vllm_engine
from rethink.types import Completion, GenerationRequest, SamplingParams


def sample_text(
    model_path: str,
    prompt: str,
    *,
    system: str | None,
    raw: bool,
    n: int,
    params: SamplingParams,
    seed: int,
    backend: str = "embedded",
) -> list[Completion]:
    """Generate `n` completions of a prompt.

    Args:
        model_path: `embedded`, a hub id, a folder or a GGUF file.
        prompt: the user's message; with `raw`, the text to continue.
        system: system message, or None.
        raw: use no chat template.
        n: completions wanted.
        params: how they are drawn; the model's end-of-turn tokens stop them too.
        seed: completion `i` is drawn with `seed + i`.
        backend: `embedded`, or `vllm` (extra `vllm`).

    Raises:
        UsageError: the model cannot be read, has no chat template, or the prompt leaves no room; or vLLM is missing.
    """
    if backend == "vllm":
        check_vllm()
    checkpoint = load_checkpoint(model_path)
    ids = _prompt_ids(checkpoint, prompt, system, raw)
    engine = load_vllm_engine(checkpoint, keep_logprobs=True) if backend == "vllm" else _embedded_engine(checkpoint)
    room = engine.context - len(ids)
    if room < 1:
        raise UsageError(
            f"the prompt has {len(ids)} tokens, but the context of {model_path} is {engine.context}; shorten the prompt"
        )
    stops = tuple(sorted({*params.stop_token_ids, *checkpoint.tokenizer.end_of_turn_ids}))
    params = dataclasses.replace(params, stop_token_ids=stops, max_new_tokens=min(params.max_new_tokens, room))
    return engine.generate([GenerationRequest(ids, tuple(range(seed, seed + n)), params)])[0]


def _embedded_engine(checkpoint: Checkpoint) -> RolloutEngine:
    torch.set_num_threads(usable_threads())
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = build_model(checkpoint, choose_dtype(measure_gemm(device=device)), device)
    return build_engine(model, checkpoint.tokenizer, kv_budget_bytes=default_budget(device))


def _prompt_ids(checkpoint: Checkpoint, prompt: str, system: str | None, raw: bool) -> tuple[int, ...]:
    tokenizer = checkpoint.tokenizer
    if raw:
        begin = [tokenizer.bos_id] if tokenizer.adds_bos and tokenizer.bos_id is not None else []
        return (*begin, *tokenizer.encode(prompt))
    messages = [{"role": "system", "content": system}] if system is not None else []
    messages.append({"role": "user", "content": prompt})
    return tuple(tokenizer.encode(tokenizer.render_chat(messages, add_generation_prompt=True)))
