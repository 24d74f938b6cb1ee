"""Fine-tuning runs from recipe to summary: resume, folders, refusals, report, the command."""

from __future__ import annotations

import json
import random
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from rethink.cli import main
from rethink.errors import ModelError, RecipeError, RunFolderError, TaskError
from rethink.kinds.sft.recipe import SFTRecipe
from rethink.kinds.sft.run import train_sft
from rethink.model.loading import load_checkpoint
from rethink.observe.glossary import describe
from rethink.observe.progress import make_progress
from rethink.recipe.recipe_files import load_recipe
from rethink.store.run_folder import RunFolder
from tests.kinds.grpo.test_resume import die, kill_and_resume
from tests.runs.compare import same_run, timeless

RECIPE = """\
name: tiny-sft
kind: sft
epochs: 2
threads: 1
model: {{path: {model}, dtype: float32}}
data:
  - {{path: {folder}/sums.jsonl, weight: 2}}
  - {{path: {folder}/chats.jsonl, weight: 1}}
batch_sequences: 6
optimizer: {{learning_rate: 3.0e-3, final_rate: 3.0e-4, warmup_steps: 2}}
evaluation: {{share: 0.15, every: 3}}
checkpoint: {{every: 3}}
"""


@pytest.fixture
def recipe_file(tmp_path: Path, tiny_folder: Callable[..., Path]) -> Path:
    """Two small data sets of different form and size, with weights, a schedule and evaluations."""
    dice = random.Random(0)
    sums = [(dice.randrange(100), dice.randrange(100)) for _ in range(24)]
    (tmp_path / "sums.jsonl").write_text(
        "".join(
            json.dumps({"prompt": f"{a} + {b}?", "completion": f"<think>sum</think>{a + b}"}) + "\n" for a, b in sums
        )
    )
    chats = [
        {"messages": [
            {"role": "user", "content": f"say {i}"}, {"role": "assistant", "content": f"{i}"},
            {"role": "user", "content": "again"}, {"role": "assistant", "content": f"{i} {i}"},
        ]}
        for i in range(14)
    ]  # fmt: skip
    (tmp_path / "chats.jsonl").write_text("".join(json.dumps(chat) + "\n" for chat in chats))
    path = tmp_path / "tiny.yaml"
    path.write_text(RECIPE.format(model=tiny_folder("llama"), folder=tmp_path))
    return path


@pytest.fixture
def run(recipe_file: Path) -> Callable[..., dict[str, Any]]:
    def go(out: Path, *overrides: str, resume: bool = False) -> dict[str, Any]:
        recipe = load_recipe(recipe_file, overrides)
        assert isinstance(recipe, SFTRecipe)
        return train_sft(recipe, out, resume=resume, progress=make_progress("none"))

    return go


KILLED_AT = 28
"""Of 73 changes of the folder: after a step that no checkpoint holds yet."""
Run = Callable[..., dict[str, Any]]


def test_a_finished_summary_means_that_the_model_is_there(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, options = tmp_path / "out", ("epochs=null", "steps=3", "evaluation={share: 0.15}")

    def damaged(folder: RunFolder, *_: object) -> None:
        raise RunFolderError("the model is damaged")

    with monkeypatch.context() as patched:
        patched.setattr(RunFolder, "export_model", damaged)
        with pytest.raises(RunFolderError, match="the model is damaged"):
            run(out, *options)
    assert RunFolder.open(out).read_summary() is None
    assert run(out, *options, resume=True)["finished"]
    assert (out / "model" / "model.safetensors").exists()


def test_a_run_and_what_it_leaves(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "out"
    summary = run(out)
    folder = RunFolder.open(out)
    assert folder.read_summary() == json.loads(json.dumps(summary))
    rows = folder.metrics()
    assert summary["finished"]
    assert summary["steps"] == rows[-1]["step"] == 11
    assert [row["step"] for row in rows] == list(range(12))
    assert [row["step"] for row in rows if "eval/loss" in row] == [0, 3, 6, 9, 11]
    assert rows[-1]["eval/loss"] < rows[0]["eval/loss"]
    assert rows[-1]["train/loss"] < rows[1]["train/loss"]
    rates = [row["optimizer/learning_rate"] for row in rows[1:]]
    assert max(rates) == pytest.approx(3e-3)
    assert 3e-4 < rates[-1] < 4e-4  # it comes to 3e-4 after the last step
    assert rates[0] == pytest.approx(1.5e-3)
    for row in rows:
        for name in row:
            assert describe(name)
    # The model opens elsewhere, and does what it was evaluated to do.
    loaded = AutoModelForCausalLM.from_pretrained(out / "model", dtype=torch.float32)
    assert load_checkpoint(str(out / "model")).tokenizer.chat_template
    assert sum(p.numel() for p in loaded.parameters()) > 1000
    page = (out / "report.html").read_text()
    assert "Fine-tuning loss" in page
    assert "Rollouts" not in page
    assert "eval/loss" in page
    sets = {Path(entry["path"]).name: entry for entry in summary["data"]}
    assert sets["sums.jsonl"]["trained"] + sets["sums.jsonl"]["held_out"] == 24


def test_a_killed_run_ends_like_the_whole_one(run: Run, recipe_file: Path, tmp_path: Path) -> None:
    """Killed between two checkpoints; the slow test below takes every moment."""
    run(tmp_path / "whole")
    kill_and_resume(recipe_file, tmp_path / "whole", [KILLED_AT], tmp_path)
    steps = [row["step"] for row in RunFolder.open(tmp_path / "killed-0").metrics()]
    assert steps == list(range(12))


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_killed_at_many_random_points(recipe_file: Path, tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    calls = int(die(recipe_file, whole, 0, "").stdout)
    kill_and_resume(recipe_file, whole, random.Random(5).sample(range(1, calls), 12), tmp_path)


def test_killed_in_the_middle_of_a_step_and_extended(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run cut after any step and resumed, and one extended by more epochs, are the whole one."""
    constant = ["optimizer.schedule=constant", "optimizer.warmup_steps=0", "optimizer.final_rate=0"]
    run(tmp_path / "whole", "epochs=2", *constant)
    run(tmp_path / "out", "epochs=1", *constant)
    run(tmp_path / "out", "epochs=2", *constant, resume=True)
    whole, out = timeless(RunFolder.open(tmp_path / "whole")), timeless(RunFolder.open(tmp_path / "out"))
    train = [[{k: v for k, v in row.items() if not k.startswith("eval/")} for row in rows] for rows in (whole, out)]
    assert train[0] == train[1]
    assert (tmp_path / "whole/model/model.safetensors").read_bytes() == (
        tmp_path / "out/model/model.safetensors"
    ).read_bytes()


def test_micro_batches_change_memory_alone(run: Run, tmp_path: Path) -> None:
    """Through the whole run: the same losses to rounding."""
    losses = []
    for limit in (30, 4096):
        out = tmp_path / str(limit)
        run(out, f"optimizer.micro_batch_tokens={limit}", "epochs=null", "steps=4", "evaluation.every=null")
        losses.append([row["train/loss"] for row in RunFolder.open(out).metrics() if "train/loss" in row])
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)


def test_ctrl_c_finishes_the_step(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import rethink.kinds.sft.loop as loop

    inner = loop.one_step

    def interrupted(state: Any) -> Any:
        row = inner(state)
        if state.state.step == 2:
            signal.raise_signal(signal.SIGINT)
        return row

    monkeypatch.setattr(loop, "one_step", interrupted)
    out = tmp_path / "out"
    summary = run(out)
    assert (summary["finished"], summary["steps"]) == (False, 2)
    assert not (out / "model").exists()
    monkeypatch.setattr(loop, "one_step", inner)
    assert run(out, resume=True)["finished"]
    run(tmp_path / "whole")
    same_run(tmp_path / "whole", out)


def test_folders_and_changed_data(run: Run, recipe_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(out, "epochs=1")
    with pytest.raises(RunFolderError, match=r"6 steps done.*finished.*epochs=2 and --resume"):
        run(out, "epochs=1")
    with pytest.raises(RunFolderError, match=r"`batch_sequences` was 6, the recipe now says 3"):
        run(out, "batch_sequences=3", resume=True)
    rows = tmp_path / "sums.jsonl"
    rows.write_text(rows.read_text().replace("sum<", "add<", 1))
    with pytest.raises(RunFolderError, match=r"`.*sums\.jsonl` changed since the run"):
        run(out, "epochs=3", resume=True)


@pytest.mark.parametrize(
    ("overrides", "error", "words"),
    [
        (["data.0.path=none.jsonl"], TaskError, "`none.jsonl` cannot be read"),
        (["max_tokens=9999"], RecipeError, "`max_tokens` is 9999, and the model's context is 256"),
        (["max_tokens=12"], TaskError, "overlong=drop"),
        (["optimizer.warmup_steps=40"], RecipeError, "is not below `steps` 11"),
        (["model.path=nowhere/at-all"], ModelError, "nowhere/at-all"),
        (["prompt.template=raw"], TaskError, "prompt.template=chat"),
    ],
)
def test_refusals_leave_no_folder(run: Run, tmp_path: Path, overrides: list[str], error: type, words: str) -> None:
    with pytest.raises(error, match=words.replace("(", r"\(")):
        run(tmp_path / "out", *overrides)
    assert not (tmp_path / "out").exists()


def test_the_command(recipe_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = ["train", str(recipe_file), "epochs=null", "steps=3"]
    assert main.main([*run, "--dry-run"]) == 0
    plan = capsys.readouterr().out
    assert "sums.jsonl: 24 rows, 0 too long" in plan
    assert "tokens each, of which" in plan
    assert main.main([*run, "--dry-run", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["estimate"]["steps"] == 3
    assert found["data"][0]["documents_per_epoch"] + found["data"][1]["documents_per_epoch"] == 32
    assert not (tmp_path / "out").exists()
    assert main.main([*run, "--out", str(tmp_path / "out"), "--plain"]) == 0
    shown = capsys.readouterr().out
    assert "step 3/3  loss " in shown
    assert "held-out loss" in shown
    assert f"model   {tmp_path / 'out' / 'model'}" in shown
    for verb, words in (("check", "scores no completions"), ("profile", "takes recipes of the kind `grpo`")):
        assert main.main([verb, str(recipe_file)]) == 2
        assert words in capsys.readouterr().err


def test_a_plan_without_files(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """The paper's size, from declared shapes alone."""
    path = tmp_path / "big.yaml"
    path.write_text(
        "name: big\nkind: sft\nepochs: 2\nmax_tokens: 32768\nbatch_sequences: 128\ndata: [{path: nowhere.jsonl}]\n"
        "data_size: {documents: 800000, tokens: 4000, trained_tokens: 3800}\n"
        "model:\n  path: nowhere/model\n  shape: {hidden_size: 1536, layers: 28, heads: 12, kv_heads: 2, "
        "head_dim: 128, intermediate_size: 8960, vocab_size: 151936, context: 131072, tie_embeddings: true}\n"
    )
    assert main.main(["train", str(path), "--dry-run", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["estimate"]
    assert found["steps"] == 12500
    assert found["total_tokens"] == 6.4e9
    # 6 x 1.31e9 block parameters x tokens, 6 x 0.23e9 head parameters x trained tokens, and attention.
    assert 5e19 < found["total_flops"] < 8e19
