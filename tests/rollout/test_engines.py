"""Engines by name: one of another package trains and is evaluated, and what cannot be had is refused with what can."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rethink.cli.main import main
from rethink.errors import EngineFailure, ModelError, RecipeError
from rethink.machine import limits, speed
from rethink.machine.placement import Placement
from rethink.recipe.recipe_files import parse_recipe
from rethink.rollout.engines import Engine, choose_engine, engines, open_engine
from rethink.rollout.engines.scripted import ScriptedEngine
from rethink.store.run_folder import RunFolder
from rethink.types import GenerationRequest, SamplingParams

RECIPE = """\
name: echoed
steps: 1
threads: 1
model: {{path: {model}, dtype: float32}}
prompt: {{template: raw, instruction: "{{question}}"}}
tasks: [{{kind: jsonl, name: {rows}}}]
rollout: {{prompts_per_batch: 2, group_size: 3, max_new_tokens: 5, engine: {engine}}}
reward: {{parts: [{{name: accuracy}}], answer: last-number}}
evaluation: {{problems: 0}}
"""


@pytest.fixture
def outside(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.syspath_prepend(Path(__file__).parent / "outside")
    engines.cache_clear()
    yield
    engines.cache_clear()
    sys.modules.pop("echo_engine", None)


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(f'{{"question": "{n} + {n}?", "answer": "{2 * n}"}}\n' for n in range(40)))
    return path


@pytest.mark.usefixtures("outside")
def test_an_engine_of_another_package_trains_and_is_evaluated(
    tmp_path: Path, tiny_folder: Callable[..., Path], rows: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, recipe = tiny_folder("llama", max_position_embeddings=256), tmp_path / "echoed.yaml"
    recipe.write_text(RECIPE.format(model=model, rows=rows, engine="echo"))
    assert main(["train", str(recipe), "--out", str(tmp_path / "run"), "--plain"]) == 0
    rollouts = RunFolder.open(tmp_path / "run").read_rollouts(0)
    assert rollouts is not None
    for rollout in rollouts:
        assert sorted(rollout.completion.token_ids.tolist()) == sorted(rollout.prompt.token_ids[-5:])
    capsys.readouterr()
    words = ["eval", "--model", str(model), "--bench", str(rows), "--limit", "2", "--max-new-tokens", "5"]
    assert main([*words, "--engine", "echo", "--out", str(tmp_path / "evaluated"), "--json"]) == 0
    assert json.loads((tmp_path / "evaluated/evaluation.json").read_text())["backend"]["backend"] == "echo"


@pytest.mark.usefixtures("outside")
def test_what_cannot_be_had_is_refused_with_what_can(rows: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def parse(engine: str) -> None:
        parse_recipe(RECIPE.format(model="embedded", rows=rows, engine=engine), "The recipe")

    parse("torch")
    with pytest.raises(
        RecipeError, match=r"no engine 'echoo'; allowed are auto, torch, transformers, vllm, echo\..*`echo`"
    ):
        parse("echoo")
    monkeypatch.setitem(engines(), "reads-once", Engine("reads-once", open=lambda _: None, build=None, trains=False))  # type: ignore[arg-type, return-value]
    with pytest.raises(
        RecipeError, match=r"`reads-once` cannot train.*Allowed are auto, torch, transformers, vllm, echo"
    ):
        parse("reads-once")
    with pytest.raises(RecipeError, match="no engine 'scripted'"):
        open_engine("embedded", engine="scripted")


def test_a_model_that_an_engine_cannot_run() -> None:
    checkpoint: Any = SimpleNamespace(config=None, reason="the architecture Bloom is not of its family", source="bloom")
    with pytest.raises(ModelError, match=r"the engine `torch` cannot run bloom: the architecture.*engine at `auto`"):
        choose_engine("torch", checkpoint)
    assert choose_engine("auto", checkpoint).name == "transformers"


def test_the_old_option_names_the_new_one(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["eval", "--model", "m", "--bench", "b"], ["chat"], ["sample", "hello"]):
        with pytest.raises(SystemExit):
            main([*words, "--backend", "vllm"])
        assert "--backend is called --engine now: write --engine auto, or --engine vllm" in capsys.readouterr().err


def test_a_version_that_the_engine_does_not_have_is_refused() -> None:
    engine = ScriptedEngine(["a"], lambda _: [1])
    params = SamplingParams(max_new_tokens=4)

    def ask(version: int | None) -> int | None:
        return engine.generate([GenerationRequest((1,), (0,), params, version=version)])[0][0].version

    assert ask(None) is None
    with pytest.raises(
        EngineFailure, match="version 0 of the weights was asked for, and the engine has weights without"
    ):
        ask(0)
    engine.publish(None, 3)
    assert (ask(None), ask(3)) == (3, 3)
    with pytest.raises(EngineFailure, match="version 2 of the weights was asked for, and the engine has version 3"):
        ask(2)
    engine.submit(0, GenerationRequest((1,), (0,), params), lambda *_: None)
    with pytest.raises(EngineFailure, match="1 requests are under way"):
        engine.publish(None, 4)
    assert engine.version == 3


def test_a_placement_decides_what_is_left_open(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "usable_threads", lambda: 1)
    monkeypatch.setattr(limits, "free_memory", lambda _: 1000)
    monkeypatch.setattr(speed, "measure_gemm", lambda **_: {"float32": 1.0, "bfloat16": 2.0})
    assert Placement(device="cpu").decided() == Placement(1, "cpu", "bfloat16", 250)
    whole = Placement(2, "cpu", "float32", 7)
    assert whole.decided() == whole
    with pytest.raises(RecipeError, match="no CUDA device here"):
        Placement(device="cuda").decided()
