"""Every corruption of a run's folder is noticed or harmless, for each kind: a file cut, missing, flipped, or zeroed."""

from __future__ import annotations

import copy
import functools
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rethink.errors import RunFolderError
from rethink.export.exported import open_source
from rethink.kinds.eval import run as eval_run
from rethink.kinds.pipeline.selection import Selection
from rethink.kinds.pipeline.status import status
from rethink.model.tokenizer.tokenizer import Tokenizer
from rethink.observe.progress import Progress, Silent
from rethink.recipe import recipe_files
from rethink.recipe.kind import kind_named
from rethink.recipe.yaml_text import load_yaml
from rethink.store import run_folder
from rethink.store.pipeline_folder import PipelineFolder
from rethink.store.run_folder import RunFolder
from tests.models import save_tiny
from tests.rewards.misbehaving import misbehaving_server

from .corruption import Notes, Subject, content, damage, facts, files_of, model_bits, refused, sweep

ROWS = {
    "problems": [{"question": f"{i} + {j} =", "answer": f"{i + j}"} for i in range(4) for j in range(4)],
    "rows": [{"prompt": f"{i} + {i} =", "completion": f" {2 * i}"} for i in range(8)],
    "pairs": [{"prompt": f"{i}?", "chosen": f"{i}.", "rejected": "no"} for i in range(10)],
    "prompts": [{"prompt": f"say {i}"} for i in range(3)],
}
PARTS = {
    "model": "{path: MODEL, dtype: float32}",
    "tasks": "[{kind: jsonl, name: PLACE/problems.jsonl}]",
    "prompt": '{template: raw, instruction: "{question}"}',
    "reward": "{answer: last-number, parts: [{name: accuracy}, "
    "{name: repetition, params: {unit: tokens, ngram_size: 1}}]}",
    "optimizer": "{learning_rate: 1.0e-3, schedule: constant, micro_batch_tokens: 256}",
}
GRPO = """
rollout: {prompts_per_batch: 2, group_size: 2, max_new_tokens: 3, kv_budget_gb: 0.1}
algorithm: {beta: 0.02, mini_batches: 2, epochs: 2, reference_every: 3}
evaluation: {problems: 2, every: 3, every_problems: 1}
checkpoint: {every: 1}
"""
SFT = """
data: [{path: PLACE/rows.jsonl}]
batch_sequences: 2
evaluation: {share: 0.25, every: 2}
checkpoint: {every: 1}
"""
REWARD_MODEL = """
data: [{path: PLACE/pairs.jsonl}]
batch_size: 4
evaluation: {share: 0.2, every: 2}
checkpoint: {every: 1}
"""
PREFERENCE = """
data: [{path: PLACE/pairs.jsonl}]
algorithm: {type: kto}
batch_size: 4
evaluation: {share: 0.2, every: 2}
checkpoint: {every: 1}
"""
SAMPLES = """
problems: 4
sampling: {per_problem: 2, prompts_per_batch: 2, max_new_tokens: 4, kv_budget_gb: 0.1}
filters: {correct: null, format: null, language: null, tags: false, truncated: false, repetition: null, duplicate: null}
choose: {rule: judged, keep: 2}
judge: {params: {url: URL, model: grader}}
teacher: {model: MODEL, max_tokens: 4, instruction: "{completion}"}
general: {share: 0.2, prompts: PLACE/prompts.jsonl, max_new_tokens: 180, prompt: {template: raw}}
"""
EVAL = """
problems: 4
max_new_tokens: 4
kv_budget_gb: 0.1
"""
USED = {
    "grpo": (GRPO, tuple(PARTS)),
    "sft": (SFT, ("model", "optimizer")),
    "reward-model": (REWARD_MODEL, ("model", "optimizer")),
    "preference": (PREFERENCE, ("model", "optimizer")),
    "samples": (SAMPLES, ("model", "tasks", "prompt", "reward")),
    "eval": (EVAL, ("model", "tasks", "prompt", "reward")),
}
"""By kind: the rest of its recipe, and which of `PARTS` it has."""
STEPS = {"grpo": 6, "sft": 3, "reward-model": 3, "preference": 3}
"""Where the run is stopped; GRPO in the midst of a rollout batch of four updates. One more step is the whole."""
QUICK = {
    "grpo": ("metrics.jsonl", "optimizer.safetensors"),
    "sft": ("state.json", "recipe.yaml"),
    "reward-model": ("pairs.jsonl",),
    "preference": ("part-000000.parquet",),
    "samples": ("train.jsonl", "part-000000.jsonl"),
    "eval": ("chunk-000001.parquet", "summary.json"),
    "pipeline": ("pipeline.json", "model.safetensors"),
}
"""Names of files that the quick suite damages."""
Make = Callable[[str], Subject]


@pytest.fixture(autouse=True)
def _quick_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Evaluations in chunks of two problems; a text of YAML, which takes a while to read, is read once."""
    known = functools.cache(load_yaml)
    for module in (run_folder, recipe_files):
        monkeypatch.setattr(module, "load_yaml", lambda text: copy.deepcopy(known(text)))
    monkeypatch.setattr(eval_run, "CHUNK", 2)


@pytest.fixture(scope="module")
def recipe_of(
    tmp_path_factory: pytest.TempPathFactory, small_tokenizer: Tokenizer
) -> Iterator[Callable[..., dict[str, Any]]]:
    """`recipe_of(kind)`: a tiny recipe of a kind as plain data."""
    place = tmp_path_factory.mktemp("corruption")
    save_tiny(place / "model", small_tokenizer, "llama")
    for name, rows in ROWS.items():
        (place / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with misbehaving_server() as endpoint:
        endpoint.reply = "Score: 7"

        def make(kind: str) -> dict[str, Any]:
            own, used = USED[kind]
            text = own + "".join(f"{name}: {PARTS[name]}\n" for name in used)
            for word, path in (("MODEL", place / "model"), ("PLACE", place), ("URL", endpoint.url)):
                text = text.replace(word, str(path))
            recipe: dict[str, Any] = load_yaml(text)
            return recipe | {"name": "tiny", "kind": kind, "threads": 1}

        yield make


@pytest.fixture
def make(recipe_of: Callable[..., dict[str, Any]], tmp_path: Path) -> Make:
    """`make(kind)`: a stopped run of it and the same at its end."""

    def runner(recipe: dict[str, Any], **options: Any) -> Callable[[Path, Progress], Any]:
        parsed = recipe_files.parse_recipe(json.dumps(recipe), "the recipe", ())
        run = kind_named(recipe["kind"]).load("run")
        return lambda out, progress: run(parsed, out, resume=True, progress=progress, **options)

    def subject(kind: str) -> Subject:
        stopped, whole = tmp_path / "stopped", tmp_path / "whole"
        recipe = pipeline(recipe_of) if kind == "pipeline" else recipe_of(kind)
        first, last = recipe, recipe
        if kind in STEPS:
            first, last = recipe | {"steps": STEPS[kind]}, recipe | {"steps": STEPS[kind] + 1}
        begun: dict[str, Any] = {"selection": Selection(until="eval-zero")} if kind == "pipeline" else {}
        runner(first, **begun)(stopped, Silent())
        shutil.copytree(stopped, whole)
        resume = runner(last)
        resume(whole, Silent())
        results = {"samples": sample_files, "eval": verdicts, "pipeline": outputs}.get(kind, model_bits)
        return Subject(stopped, whole, resume, results, stage_facts if kind == "pipeline" else facts)

    return subject


def pipeline(recipe_of: Callable[..., dict[str, Any]]) -> dict[str, Any]:
    """GRPO, then SFT of its model, and an evaluation of both."""

    def stage(kind: str, **values: Any) -> dict[str, Any]:
        recipe = recipe_of(kind)
        return {"kind": kind, "recipe": {k: v for k, v in recipe.items() if k not in ("name", "kind")} | values}

    measured = stage("eval")["recipe"] | {"model": {"dtype": "float32"}}
    zero = stage("grpo", steps=2)
    tuned = stage("sft", steps=2, model={"path": "${zero.model}", "dtype": "float32"})
    return {"name": "tiny", "kind": "pipeline", "threads": 1, "stages": {"zero": zero, "tuned": tuned},
            "evaluation": measured}  # fmt: skip


def sample_files(folder: Path) -> Any:
    """What a curation leaves for others."""
    return [content(folder / name) for name in ("samples.jsonl", "train.jsonl", "statistics.json", "statistics.md")]


def verdicts(folder: Path) -> Any:
    """What an evaluation came to."""
    run = RunFolder.open(folder)
    clocks = ("wall_s", "peak_rss_mb")
    summary = {key: value for key, value in (run.read_summary() or {}).items() if key not in clocks}
    return summary, [run.read_samples(name) for name in run.samples()]


def outputs(folder: Path) -> Any:
    """Models and comparisons of a pipeline."""
    found = PipelineFolder.open(folder)
    models = {path.parent.parent.name: path.read_bytes() for path in folder.glob("stages/*/model/model.safetensors")}
    return models, found.read_results("comparisons")


def stage_facts(folder: Path) -> tuple[Any, list[str]]:
    """What `rethink status` says of a pipeline."""
    found = status(PipelineFolder.open(folder))
    stages = [{"name": s["name"], "state": s["state"], "steps": s["steps"]} for s in found["stages"]]
    return [stages, found["results"]], [sentence for stage in found["stages"] for sentence in stage["damage"]]


@pytest.mark.parametrize("kind", sorted(QUICK))
def test_some_files(make: Make, tmp_path: Path, kind: str) -> None:
    sweep(make(kind), tmp_path, lambda file: file.name in QUICK[kind] and "best" not in file.parts)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("kind", sorted(QUICK))
def test_every_file(make: Make, tmp_path: Path, kind: str) -> None:
    subject = make(kind)
    assert sweep(subject, tmp_path, lambda file: "checkpoints" not in file.parts)
    one_checkpoint = sweep(subject, tmp_path, lambda file: "checkpoints" in file.parts)
    assert one_checkpoint == 0, "one damaged checkpoint is never the end of a run"


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
def test_a_damaged_model_is_not_used(make: Make, tmp_path: Path, name: str) -> None:
    """Not exported, and not loaded either."""
    run = make("sft").whole
    file = Path("model") / name
    assert file in files_of(run)
    for way in ("cut", "missing", "flipped"):
        copy_of = tmp_path / way
        shutil.copytree(run, copy_of)
        damage(copy_of / file, way)
        assert refused(lambda path=copy_of: open_source(str(path), as_gguf=False), file, way)  # type: ignore[misc]


def test_a_damaged_checkpoint_falls_back(make: Make) -> None:
    """To the one before, and to a lost batch's beginning there is none: then the run says so."""
    subject = make("grpo")
    stopped = RunFolder.open(subject.stopped)
    (newest, latest), (before, _) = stopped.checkpoints()
    damage(latest / "optimizer.safetensors", "flipped")
    notes = Notes()
    subject.resume(subject.stopped, notes)
    (said,) = [note for note in notes.said if "damaged" in note]
    assert f"step-{newest:06d}/optimizer.safetensors` is damaged" in said
    assert f"goes on from step {before}" in said
    assert model_bits(subject.stopped) == model_bits(subject.whole)
    for run in (subject.stopped, subject.whole):
        assert [row["step"] for row in RunFolder.open(run).metrics()] == list(range(newest + 2))
    stopped.rollouts_path(1).unlink()
    for _, path in stopped.checkpoints():
        damage(path / "state.json", "zeroed")
    with pytest.raises(RunFolderError, match=r"state\.json.* is damaged.*No other checkpoint.*first step"):
        subject.resume(subject.stopped, notes)
