"""A module `vllm` that plays a script through the part of vLLM's interface that we use (as of 0.32)."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

Played = tuple[list[int], str]
"""Token ids, and vLLM's finish reason."""
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


class _Engine:
    def __init__(self, fake: FakeVllm):
        self._fake = fake
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
        name = next(reversed(self._open))
        going = [SimpleNamespace(request_id=next(iter(self._open)), finished=False, outputs=[])]
        prompt, params = self._open.pop(name)
        ids, reason = self._fake.script(prompt, params)
        logprobs = None
        if params.logprobs is not None:
            logprobs = [{i: SimpleNamespace(logprob=-0.5), i + 1: SimpleNamespace(logprob=-9.0)} for i in ids]
        output = SimpleNamespace(token_ids=ids, finish_reason=reason, logprobs=logprobs)
        return [*going, SimpleNamespace(request_id=name, finished=True, outputs=[output])]


def install(monkeypatch: pytest.MonkeyPatch, script: Script, **values: Any) -> FakeVllm:
    """Put the fake where `import vllm` finds it."""
    fake = FakeVllm(script, **values)

    class LLM:
        def __init__(self, **options: Any):
            if fake.fails_to_load is not None:
                raise fake.fails_to_load
            fake.options = options
            self.llm_engine = _Engine(fake)

        def reset_prefix_cache(self) -> bool:
            fake.resets += 1
            return True

    modules = {
        "vllm": {"LLM": LLM, "SamplingParams": lambda **given: SimpleNamespace(**given)},
        "vllm.sampling_params": {"RequestOutputKind": SimpleNamespace(FINAL_ONLY="final")},
        "vllm.distributed": {},
        "vllm.distributed.parallel_state": {"cleanup_dist_env_and_memory": lambda: None},
    }
    for name, content in modules.items():
        module = ModuleType(name)
        module.__dict__.update(content)
        module.__spec__ = importlib.machinery.ModuleSpec(name, None)
        monkeypatch.setitem(sys.modules, name, module)
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
