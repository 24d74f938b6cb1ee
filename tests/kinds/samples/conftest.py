"""A recipe that curates samples of a scripted engine, what it leaves, and an endpoint."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rethink.kinds.samples.recipe import CurateRecipe
from rethink.kinds.samples.run import curate
from rethink.model.tokenizer.tokenizer import Tokenizer
from rethink.observe.progress import make_progress
from rethink.recipe.recipe_files import load_recipe
from rethink.rollout.engines.scripted import Scripted, ScriptedEngine
from rethink.types import GenerationRequest
from tests.rewards.misbehaving import Misbehaving, misbehaving_server

RECIPE = """\
name: tiny-samples
kind: samples
problems: 20
threads: 1
model: {{path: {model}, dtype: float32}}
prompt: {{template: raw, instruction: "{{question}}", prefill: "<think>"}}
tasks:
  - {{kind: jsonl, name: {folder}/sums.jsonl}}
  - {{kind: jsonl, name: {folder}/products.jsonl}}
sampling: {{per_problem: 6, prompts_per_batch: 4, max_new_tokens: 150}}
"""
FILES = ("samples.jsonl", "train.jsonl", "statistics.json", "statistics.md")
ASKED = re.compile(r"(\d+) ([+*]) (\d+)")


@pytest.fixture
def recipe_file(tmp_path: Path, tiny_folder: Callable[..., Path]) -> Path:
    for name, sign, right in (("sums", "+", int.__add__), ("products", "*", int.__mul__)):
        (tmp_path / f"{name}.jsonl").write_text(
            "".join(
                json.dumps({"question": f"{a} {sign} {b}", "answer": str(right(a, b))}) + "\n"
                for a in range(2, 8)
                for b in range(2, 5)
            )
        )
    path = tmp_path / "tiny.yaml"
    path.write_text(RECIPE.format(model=tiny_folder("llama"), folder=tmp_path))
    return path


def answer_of(text: str) -> int:
    """What the last question in a text comes to."""
    a, sign, b = ASKED.findall(text)[-1]
    return int(a) + int(b) if sign == "+" else int(a) * int(b)


def script(tokenizer: Tokenizer) -> Callable[[GenerationRequest, int], Scripted | str]:
    """By the seed alone: good in three ways, or one of five faults. What is no question of ours is general talk."""

    def line(request: GenerationRequest, sample: int) -> Scripted | str:
        prompt, dice = tokenizer.decode(list(request.prompt_ids)), random.Random(request.seeds[sample])
        if not ASKED.search(prompt):
            return f"I think of {dice.randrange(10**6)}."
        gold = answer_of(prompt)
        good = f" So it must be {gold}.</think> <answer>{gold}</answer>"
        return dice.choice(
            [
                f"We count with {dice.randrange(9)} fingers." + good,
                "Numbers can be put together." + good,
                "We begin with the first and go on with the second number, step by step." + good,
                f"It is wrong.</think> <answer>{gold + 1}</answer>",
                f"No end <answer>{gold}</answer>",
                f"Ends <|im_end|>{good}",
                "```\nprint(1)\n```" + good,
                Scripted("It goes on", finish_reason="length"),
            ]
        )

    return line


@pytest.fixture
def run(recipe_file: Path) -> Callable[..., dict[str, Any]]:
    """`run(out, *overrides, resume=…, engine=…)` with the scripted engine."""

    def go(out: Path, *overrides: str, resume: bool = False, engines: list[Any] | None = None) -> dict[str, Any]:
        recipe = load_recipe(recipe_file, overrides)
        assert isinstance(recipe, CurateRecipe)

        def engine(model: Any, checkpoint: Any) -> ScriptedEngine:
            made = ScriptedEngine(script(checkpoint.tokenizer), checkpoint.tokenizer.encode, context=256)
            if engines is not None:
                engines.append(made)
            return made

        return curate(recipe, out, resume=resume, progress=make_progress("none"), engine_factory=engine)

    return go


Run = Callable[..., dict[str, Any]]


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def same_files(one: Path, two: Path) -> None:
    for name in FILES:
        assert (one / name).read_bytes() == (two / name).read_bytes(), name


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[Misbehaving]:
    """An endpoint without waits between tries."""
    monkeypatch.setattr("rethink.endpoint.client.FIRST_WAIT", 0.0)
    with misbehaving_server() as state:
        yield state


KILLED = [
    "problems: 6", "filters: {correct: null, format: null, language: null, tags: false, truncated: false, "
    "repetition: null, duplicate: null}", "sampling: {per_problem: 2, prompts_per_batch: 2, max_new_tokens: 8}",
    "teacher: {model: MODEL, max_tokens: 8, instruction: \"{completion}\"}",
    "general: {share: 0.1, prompts: PROMPTS, max_new_tokens: 180, prompt: {template: raw}}",
]  # fmt: skip


def killed_recipe(recipe_file: Path) -> Path:
    lines = recipe_file.read_text().splitlines()
    model = re.search(r"path: ([^,]+),", recipe_file.read_text())
    assert model
    prompts = recipe_file.with_name("prompts.jsonl")
    prompts.write_text("".join(json.dumps({"prompt": f"say {i}"}) + "\n" for i in range(3)))
    replaced = {line.split(":")[0]: line.replace("MODEL", model[1]).replace("PROMPTS", str(prompts)) for line in KILLED}
    kept = [line for line in lines if line.split(":")[0] not in replaced]
    path = recipe_file.with_name("killed.yaml")
    path.write_text("\n".join([*kept, *replaced.values(), ""]))
    return path


SAMPLED = [
    "prompt={instruction: 'What is {question}?', system: Think., examples: [{question: 1 + 1, completion: two}]}",
    "problems=6", "sampling={per_problem: 3, prompts_per_batch: 2, max_new_tokens: 50, temperature: 0.7, top_p: 0.9}",
    "filters={duplicate: null, correct: null}",
]  # fmt: skip
