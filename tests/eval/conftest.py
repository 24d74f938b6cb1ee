"""An evaluation without a model: a scripted engine behind the real backend, store and tables."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from rethink.eval.backend import Backend, EngineBackend
from rethink.eval.benchmark_run import Overrides
from rethink.eval.benchmarks.catalogue import find_benchmark
from rethink.eval.benchmarks.prompting import modes_of
from rethink.eval.evaluate import Load, Measured, Request, evaluate_all
from rethink.model.tokenizer.tokenizer import Tokenizer
from rethink.rollout.engines.scripted import Scripted, ScriptedEngine
from rethink.types import GenerationRequest

Script = Callable[[GenerationRequest, int], Scripted | str]


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    """Four problems of GSM8K's schema: question `q0` … `q3`, answer 0 … 3."""
    path = tmp_path / "questions.jsonl"
    rows = [{"id": f"p{i}", "question": f"What is {i} plus 0?", "answer": str(i)} for i in range(4)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


@pytest.fixture
def loader(small_tokenizer: Tokenizer) -> Callable[[Script], tuple[Load, list[ScriptedEngine]]]:
    """Makes a `Load` whose engines play a script, and the list of the engines that it made."""

    def make(script: Script) -> tuple[Load, list[ScriptedEngine]]:
        engines: list[ScriptedEngine] = []

        def load(model: str, dtype: str | None) -> Backend:
            engines.append(ScriptedEngine(script, small_tokenizer.encode, context=4096))
            return EngineBackend(model, engines[-1], small_tokenizer)

        return load, engines

    return make


@pytest.fixture
def evaluate(questions: Path, tmp_path: Path) -> Callable[..., list[Measured]]:
    """`evaluate(load, bench=…, models=…, prompting=…, limit=…, out=…, **overrides)`."""

    def go(
        load: Load,
        bench: Sequence[str] = ("gsm8k",),
        models: Sequence[str] = ("m",),
        prompting: str = "default",
        limit: int | None = None,
        out: Path | None = None,
        data: Path | None = None,
        **overrides: Any,
    ) -> list[Measured]:
        request = Request(
            models=tuple(models),
            benchmarks=tuple(find_benchmark(name) for name in bench),
            modes=modes_of(prompting),
            data=dict.fromkeys(bench, data or questions),
            limit=limit,
            overrides=Overrides(**overrides),
            out=out or tmp_path / "out",
        )
        return evaluate_all(request, load)

    return go
