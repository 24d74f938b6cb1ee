"""Curation that is killed, interrupted or refused: nothing is lost, and it says what is the matter."""

from __future__ import annotations

import json
import random
import re
import signal
from pathlib import Path
from typing import Any

import pytest

from rethink.errors import ModelError, RecipeError, RunFailure, RunFolderError, StorageFailure, TaskError
from rethink.kinds.samples import run as run_module
from rethink.kinds.samples.parts import in_parts
from rethink.kinds.samples.recipe import CurateRecipe
from rethink.kinds.samples.run import curate
from rethink.observe.progress import make_progress
from rethink.recipe.recipe_files import load_recipe
from rethink.rollout.engines.scripted import Scripted, ScriptedEngine
from rethink.store import atomic
from rethink.types import GenerationRequest
from tests.kinds.grpo.test_resume import die, kill_and_resume

from .conftest import FILES, SAMPLED, Run, killed_recipe, rows, same_files, script

# --- resume ------------------------------------------------------------------------------------------------------


def test_an_engine_that_breaks_loses_nothing(run: Run, recipe_file: Path, tmp_path: Path) -> None:
    whole, out = tmp_path / "whole", tmp_path / "out"
    run(whole)
    recipe = load_recipe(recipe_file)
    assert isinstance(recipe, CurateRecipe)

    def fails(model: Any, checkpoint: Any) -> ScriptedEngine:
        inner, asked = script(checkpoint.tokenizer), [0]

        def line(request: GenerationRequest, sample: int) -> Scripted | str:
            asked[0] += 1
            return Scripted("", failure="the socket closed") if asked[0] > 60 else inner(request, sample)

        return ScriptedEngine(line, checkpoint.tokenizer.encode, context=256)

    with pytest.raises(RunFailure, match="the socket closed"):
        curate(recipe, out, progress=make_progress("none"), engine_factory=fails)
    assert len(list((out / "drawn").iterdir())) == 2
    engines: list[Any] = []
    run(out, resume=True, engines=engines)
    assert sum(request.n for request in engines[0].requests) == 20 * 6 - 2 * 24
    same_files(whole, out)


def test_a_full_disk(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, out = tmp_path / "whole", tmp_path / "out"
    run(whole)
    write, calls = atomic.write_all, [0]

    def full(descriptor: int, data: bytes) -> None:
        calls[0] += 1
        if calls[0] > 8:
            raise OSError(28, "No space left on device")
        write(descriptor, data)

    monkeypatch.setattr(atomic, "write_all", full)
    with pytest.raises(StorageFailure, match="no space is left"):
        run(out)
    monkeypatch.undo()
    run(out, resume=True)
    same_files(whole, out)


def test_ctrl_c_between_parts(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, out = tmp_path / "whole", tmp_path / "out"
    run(whole)
    sample, calls = run_module.sample_problems, [0]

    def interrupted(*arguments: Any) -> Any:
        calls[0] += 1
        if calls[0] == 2:
            signal.raise_signal(signal.SIGINT)
        return sample(*arguments)

    monkeypatch.setattr(run_module, "sample_problems", interrupted)
    assert not run(out)["finished"]
    assert len(list((out / "drawn").iterdir())) == 2, "the part under way is finished"
    assert run(out, resume=True)["finished"]
    same_files(whole, out)


def kills(recipe_file: Path, tmp_path: Path, shares: list[float]) -> None:
    recipe, whole = killed_recipe(recipe_file), tmp_path / "whole"
    done = die(recipe, whole, 0, "")
    assert done.returncode == 0, done.stderr
    calls = int(done.stdout)
    points = [max(1, int(share * calls)) for share in shares]
    kill_and_resume(recipe, whole, points, tmp_path, same_files)


@pytest.mark.slow
@pytest.mark.once
def test_a_killed_run_ends_like_the_whole_one(recipe_file: Path, tmp_path: Path) -> None:
    kills(recipe_file, tmp_path, [0.5])


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_killed_at_many_moments(recipe_file: Path, tmp_path: Path) -> None:
    dice = random.Random(3)
    kills(recipe_file, tmp_path, [dice.random() for _ in range(8)])


# --- refusals ----------------------------------------------------------------------------------------------------


def test_too_few_says_why_and_keeps_everything(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(RunFailure, match=r"of 120 samples were kept, and the recipe wants at least 100.*source="):
        run(out, "least=100")
    assert len(rows(out / "samples.jsonl")) == 120
    assert json.loads((out / "statistics.json").read_text())["total"]["samples"] == 120
    assert not (out / "train.jsonl").exists()


@pytest.mark.parametrize(
    ("overrides", "error", "words"),
    [
        (["tasks=[]"], RecipeError, "neither `tasks` nor a `source`"),
        (["sampling.temperature=0"], RecipeError, "`sampling.per_problem=1`"),
        (["choose.rule=judged"], RecipeError, "`judge.params`"),
        (["balance=0.3"], RecipeError, "0.5 makes all equal"),
        (["filters.correct=acuracy"], RecipeError, "does not have"),
        (["reward.parts=[{name: accuracy}, {name: format}]"], RecipeError, "`filters.language=null`"),
        (["reward.parts.0.name=acuracy"], RecipeError, "Did you mean `accuracy`"),
        (["teacher.url=http://127.0.0.1:1/v1"], RecipeError, "Name the model"),
        (["teacher={model: a, instruction: rewrite}"], RecipeError, "`{completion}`"),
        (["endpoint.model=big"], RecipeError, "`endpoint` has no `url`"),
        (["endpoint={model: m, url: 'http://127.0.0.1:1/v1'}"], RecipeError, "`prompt.template=chat`"),
        ([*SAMPLED, "endpoint={model: m, url: 'http://127.0.0.1:1/v1'}", "sampling.top_k=5"], RecipeError, "top_k"),
        ([*SAMPLED, "endpoint={model: m, url: 'http://127.0.0.1:1/v1', key_env: NO_SUCH_KEY}"], RecipeError,
         "`NO_SUCH_KEY`, which is not set"),
        (["general.path=x.jsonl"], RecipeError, "`general.share=0.25`"),
        (["general={share: 0.2, path: missing.jsonl}"], TaskError, "missing.jsonl"),
        (["source=missing.jsonl"], TaskError, "missing.jsonl"),
        (["sampling.max_new_tokens=4000"], RecipeError, "at most 255"),
        (["prompt.instruction={question}" + " word" * 90, "sampling.max_new_tokens=200"], TaskError, "the prompt of"),
        (["teacher={model: m, url: 'http://127.0.0.1:1/v1', attempts: 1}"], RunFailure, "teacher's endpoint"),
        (["general={share: 0.2, max_new_tokens: 250, prompt: {template: raw}}"], TaskError, "tokens=250` do not fit"),
        (["teacher={model: missing-model}"], ModelError, "missing-model"),
        (["model.path=missing-model"], ModelError, "missing-model"),
    ],
)  # fmt: skip
def test_refusals(run: Run, tmp_path: Path, overrides: list[str], error: type[Exception], words: str) -> None:
    with pytest.raises(error) as caught:
        run(tmp_path / "out", *overrides)
    assert words in str(caught.value)
    if error is not RunFailure:
        assert not (tmp_path / "out").exists(), "a refused run leaves its folder free"


def test_folders_and_files_that_changed(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(out)
    with pytest.raises(RunFolderError, match="Go on with --resume"):
        run(out)
    with pytest.raises(RunFolderError, match=r"`sampling.per_problem` was 6"):
        run(out, "sampling.per_problem=5", resume=True)
    before = {name: (out / name).read_bytes() for name in FILES}
    run(out, resume=True)
    assert before == {name: (out / name).read_bytes() for name in FILES}
    questions = (tmp_path / "sums.jsonl").read_text().splitlines()[:-4]
    (tmp_path / "sums.jsonl").write_text("\n".join(questions))
    with pytest.raises(RunFolderError, match=r"changed since the run in .* began"):
        run(out, resume=True)


def test_a_damaged_part_is_said(tmp_path: Path) -> None:
    def work(chunk: Any) -> list[dict[str, Any]]:
        return [{"x": item} for item in chunk]

    def go() -> list[dict[str, Any]]:
        return in_parts(tmp_path / "p", list("abcde"), 2, str, work, stop=lambda: False)

    assert [row["x"] for row in go()] == list("abcde")
    (tmp_path / "p" / "part-000001.jsonl").write_text('{"items":')
    with pytest.raises(RunFolderError, match="damaged"):
        go()


def test_a_bad_line_of_the_source(run: Run, tmp_path: Path) -> None:
    for content, words in (
        ("[]", "not an object"), ("{", "not JSON"), ('{"question": "x"}', "no text under `completion` or `response`"),
        ('{"messages": [{"role": "user"}]}', "text in both"), ("", "no samples"),
        ('{"messages": [{"role": "assistant", "content": "x"}]}', "no user's turn"),
    ):  # fmt: skip
        (tmp_path / "bad.jsonl").write_text(content)
        with pytest.raises(TaskError, match=re.escape(words)):
            run(tmp_path / "out", f"source={tmp_path}/bad.jsonl")
