"""A module `vllm` that plays a script through the part of vLLM's interface that we use (as of 0.32).

Where it takes weights, it plays its model, and keeps the weights as vLLM's build for processors does: a tied head has a
packed copy of the embedding, which only `process_weights_after_loading` renews.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import json
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from rethink.model.decoder.decoder import Decoder
from rethink.model.decoder.hf_config import parse_hf_config
from rethink.rollout.engines.torch import TorchEngine
from rethink.types import GenerationRequest, SamplingParams

Played = tuple[list[int], str] | tuple[list[int], str, list[float]]
"""Token ids, vLLM's finish reason, and log-probabilities (-0.5 each, where they are not played)."""
Script = Callable[[list[int], Any], Played]
"""(prompt ids, sampling parameters) -> what comes."""


@dataclass
class FakeVllm:
    """What was asked of it, and what it plays."""

    script: Script
    context: int = 4096
    options: dict[str, Any] = field(default_factory=dict)
    asked: list[tuple[list[int], Any]] = field(default_factory=list)
    aborted: list[str] = field(default_factory=list)
    shut_down: int = 0
    resets: int = 0
    """Of the prefix cache."""
    fails_to_load: Exception | None = None
    models: list[FakeModel] = field(default_factory=list)
    """Of each `LLM` that takes weights."""
    deaf: tuple[str, ...] = ()
    """Beginnings of names of weights that it does not take over, `repack`: its head is not repacked."""


class Head:
    """vLLM's `ParallelLMHead`, of whose packed weights it makes its logits."""

    def __init__(self, model: FakeModel):
        self._model = model
        self.quant_method = SimpleNamespace(process_weights_after_loading=self._pack)
        self.packed: Tensor
        self._pack(self)

    def _pack(self, head: Head) -> None:
        assert head is self
        if "repack" not in self._model.fake.deaf or not hasattr(self, "packed"):
            self.packed = self._model.tensors.get("lm_head.weight", self._model.tensors[EMBEDDING]).clone()


SYNC = "rethink.rollout.vllm_sync"
EMBEDDING = "model.embed_tokens.weight"


class FakeModel:
    """vLLM's model: names and tensors of a checkpoint."""

    def __init__(self, folder: Path, dtype: torch.dtype, fake: FakeVllm):
        self.config, self.fake, self.dtype = json.loads((folder / "config.json").read_text()), fake, dtype
        self.tensors = {name: tensor.to(dtype) for name, tensor in load_file(folder / "model.safetensors").items()}
        self.apart = False
        self._head = Head(self)
        self._engine: TorchEngine | None = None

    def named_parameters(self) -> Iterator[tuple[str, Tensor]]:
        return iter(self.tensors.items())

    def modules(self) -> list[Any]:
        return [self, self._head]

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> set[str]:
        assert self.apart
        self._engine = None
        taken = dict(weights)
        assert set(taken) <= set(self.tensors)
        self.tensors |= {
            name: tensor.to(self.dtype).clone()
            for name, tensor in taken.items()
            if not name.startswith(self.fake.deaf or ("-",))
        }
        return set(taken)

    def put_together(self) -> None:
        self.apart = False
        if "lm_head.weight" in self.tensors:  # it was loaded like any other layer
            self._head._pack(self._head)

    def play(self, prompt: list[int], params: Any) -> Played:
        """A `Script`: what this model draws."""
        if self._engine is None:
            config = parse_hf_config({**self.config, "tie_word_embeddings": False}, "test").config
            assert config is not None
            tensors = {**self.tensors, "lm_head.weight": self._head.packed}
            decoder = Decoder(config, {name: tensor.clone() for name, tensor in tensors.items()}, self.dtype)
            self._engine = TorchEngine(decoder, lambda ids: "")
        asked = SamplingParams(
            params.temperature, params.top_p, params.top_k, params.max_tokens, (), tuple(params.stop_token_ids)
        )
        request = GenerationRequest(tuple(prompt), (params.seed,), asked)
        ((done,),) = self._engine.generate([request])
        return done.token_ids.tolist(), done.finish_reason, done.logprobs.tolist()


class _Engine:
    def __init__(self, fake: FakeVllm):
        self._fake = fake
        self.model: FakeModel | None = None
        self._open: dict[str, tuple[list[int], Any]] = {}
        self.renderer = SimpleNamespace(render_cmpl=lambda prompts: [dict(p, type="token") for p in prompts])
        self.model_config = SimpleNamespace(max_model_len=fake.context, dtype=torch.bfloat16)
        self.engine_core = SimpleNamespace(shutdown=self._shutdown)

    def _shutdown(self) -> None:
        self._fake.shut_down += 1

    def add_request(self, name: str, prompt: Any, params: Any) -> str:
        assert prompt["type"] == "token"
        assert name not in self._open
        self._open[name] = (prompt["prompt_token_ids"], params)
        self._fake.asked.append(self._open[name])
        return f"{name}-internal"

    def abort_request(self, names: list[str]) -> None:
        self._fake.aborted += names
        for name in names:
            del self._open[name]

    def has_unfinished_requests(self) -> bool:
        return bool(self._open)

    def step(self) -> list[Any]:
        """The newest request ends, the oldest one shows that it goes on."""
        model = self.model
        assert model is None or not model.apart, "it would crash: its layers have no weights now"
        name = next(reversed(self._open))
        going = [SimpleNamespace(request_id=next(iter(self._open)), finished=False, outputs=[])]
        prompt, params = self._open.pop(name)
        script = self._fake.script if model is None else model.play
        ids, reason, *known = script(prompt, params)
        logprobs = None
        if params.logprobs is not None:
            values = known[0] if known else [-0.5] * len(ids)
            found = zip(ids, values, strict=True)
            logprobs = [{i: SimpleNamespace(logprob=v), i + 1: SimpleNamespace(logprob=-9.0)} for i, v in found]
        output = SimpleNamespace(token_ids=ids, finish_reason=reason, logprobs=logprobs)
        return [*going, SimpleNamespace(request_id=name, finished=True, outputs=[output])]


class WeightTransferEngine:
    """The base of backends."""

    update_info_cls: Any

    def __init__(self, config: Any, vllm_config: Any, device: Any, model: Any):
        self.model, self.model_config = model, vllm_config.model_config


class WeightTransferEngineFactory:
    """Backends by name."""

    _registry: dict[str, type[Any]]

    @classmethod
    def register_engine(cls, name: str, engine: type[Any]) -> None:
        assert name not in cls._registry
        cls._registry[name] = engine


class LLM:
    fake: FakeVllm

    def __init__(self, **options: Any):
        if self.fake.fails_to_load is not None:
            raise self.fake.fails_to_load
        self.fake.options = options
        self.llm_engine = _Engine(self.fake)
        if "weight_transfer_config" not in options:
            return
        dtype = getattr(torch, options["dtype"])
        model = self.llm_engine.model = FakeModel(Path(options["model"]), dtype, self.fake)
        self.fake.models.append(model)
        self.llm_engine.model_config.dtype = dtype
        make = WeightTransferEngineFactory._registry[options["weight_transfer_config"]["backend"]]
        self._transfer = make(None, self.llm_engine, "cpu", model)

    def start_weight_update(self) -> None:
        assert not self.llm_engine.has_unfinished_requests()
        self._transfer.start_weight_update()

    def update_weights(self, request: dict[str, Any]) -> None:
        self._transfer.receive_weights(self._transfer.update_info_cls(**request["update_info"]))

    def finish_weight_update(self) -> None:
        self._transfer.finish_weight_update()

    def reset_prefix_cache(self) -> bool:
        self.fake.resets += 1
        return True


def nothing(*_: object) -> Played:
    """A script for a fake that plays its model, or nothing."""
    raise AssertionError("nothing is drawn by a script here")


def install(monkeypatch: pytest.MonkeyPatch, script: Script = nothing, **values: Any) -> FakeVllm:
    """Put the fake where `import vllm` finds it. Where the engine trains, it plays its model instead of the script."""
    fake = FakeVllm(script, **values)
    WeightTransferEngineFactory._registry = {}

    modules = {
        "vllm": {
            "LLM": type("LLM", (LLM,), {"fake": fake}),
            "SamplingParams": lambda **given: SimpleNamespace(**given),
        },
        "vllm.sampling_params": {"RequestOutputKind": SimpleNamespace(FINAL_ONLY="final")},
        "vllm.distributed": {},
        "vllm.distributed.parallel_state": {"cleanup_dist_env_and_memory": lambda: None},
        "vllm.distributed.weight_transfer": {},
        "vllm.distributed.weight_transfer.base": {
            "WeightTransferEngine": WeightTransferEngine,
            "WeightTransferInitInfo": object,
            "WeightTransferUpdateInfo": object,
        },
        "vllm.distributed.weight_transfer.factory": {"WeightTransferEngineFactory": WeightTransferEngineFactory},
        "vllm.model_executor": {},
        "vllm.model_executor.layers": {},
        "vllm.model_executor.layers.vocab_parallel_embedding": {"ParallelLMHead": Head},
        "vllm.model_executor.model_loader": {},
        "vllm.model_executor.model_loader.reload": {
            "initialize_layerwise_reload": lambda model: setattr(model, "apart", True),
            "finalize_layerwise_reload": lambda model, config: model.put_together(),
        },
    }
    for name, content in modules.items():
        module = ModuleType(name)
        module.__dict__.update(content)
        module.__spec__ = importlib.machinery.ModuleSpec(name, None)
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.delitem(sys.modules, SYNC, raising=False)  # it may know the real one
    importlib.import_module(SYNC)
    monkeypatch.setitem(sys.modules, SYNC, sys.modules.pop(SYNC))
    monkeypatch.setenv("VLLM_LOGGING_LEVEL", "ERROR")  # what the engine sets, this test's end takes back
    monkeypatch.setenv("VLLM_NO_USAGE_STATS", "1")
    monkeypatch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    return fake


def hide(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if vLLM were not installed."""
    found = importlib.util.find_spec
    monkeypatch.setattr(
        "rethink.rollout.engines.vllm.importlib.util.find_spec", lambda name: None if name == "vllm" else found(name)
    )
