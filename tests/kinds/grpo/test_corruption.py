"""Every corruption of a run's folder is noticed or harmless: each file cut, missing, with a bit flipped, or zeroed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rethink.errors import RunFolderError
from rethink.export.source import open_source
from rethink.kinds.grpo.run import train
from rethink.kinds.reward_model.run import train_reward_model
from rethink.kinds.sft.run import train_sft
from rethink.observe.progress import Progress, Silent
from rethink.observe.report.data import report_data, sample
from rethink.recipe.loading import load_recipe
from rethink.store.run_folder import RunFolder
from tests.kinds.reward_model.examples import RECIPE as REWARD_MODEL
from tests.kinds.reward_model.examples import pairs, write_rows
from tests.kinds.sft import test_run as test_sft_run

from .corruption import damage, damaged_copies, refused

GRPO = (
    "rollout.max_new_tokens=3", "rollout.prompts_per_batch=2", "rollout.group_size=2", "evaluation.problems=2",
    "evaluation.every_problems=1", "optimizer.schedule=constant", "checkpoint.every=1",
)  # fmt: skip
STOP = 6
"""A GRPO run stops here: in the midst of a rollout batch of four updates, with checkpoints of this step and of 5."""
sft_file = test_sft_run.recipe_file


class Notes(Silent):
    """Keeps what a run says."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def note(self, text: str) -> None:
        """Keep it."""
        self.said.append(text)


def facts(folder: Path) -> str:
    """What readers make of a folder, as text; the folder's own name and clocks aside."""
    run = RunFolder.open(folder)
    data = report_data(run) | {"path": "", "samples": sample(run)}
    return json.dumps(data, sort_keys=True)


def sweep(runner: Callable[[Path, Progress], Any], stopped: Path, whole: Path, place: Path, below: str = "") -> int:
    """Damage each file of `stopped` each way; resume, and read. Returns how many resumes were refused."""
    right, weights = facts(stopped), (whole / "model" / "model.safetensors").read_bytes()
    number = 0
    for what, copy in damaged_copies(stopped, place, below=below):
        read: list[str] = []
        if not refused(lambda copy=copy, read=read: read.append(facts(copy)), copy, what):
            assert read[0] == right or json.loads(read[0])["lost"], f"{what}: read as if nothing had happened"
        name = what.partition("/")[0]
        if (
            name in ("model", "best")
            and "checksums.json" not in what
            and not refused(lambda copy=copy, name=name: open_source(str(copy / name), as_gguf=False), copy, what)
        ):
            assert not (copy / name).is_dir(), f"{what}: exported"
        if refused(lambda copy=copy: runner(copy, Silent()), copy, what):
            number += 1
        else:
            assert (copy / "model" / "model.safetensors").read_bytes() == weights, f"{what}: other weights"
    return number


def grpo(path: Path, steps: int) -> Callable[[Path, Progress], Any]:
    recipe = load_recipe(path, [*GRPO, f"steps={steps}"])
    return lambda out, progress: train(recipe, out, resume=True, progress=progress)


@pytest.fixture
def stopped(recipe_file: Path, tmp_path: Path) -> Path:
    grpo(recipe_file, STOP)(tmp_path / "stopped", Silent())
    return tmp_path / "stopped"


@pytest.fixture
def whole(recipe_file: Path, stopped: Path, tmp_path: Path) -> Path:
    shutil.copytree(stopped, tmp_path / "whole")
    grpo(recipe_file, STOP + 1)(tmp_path / "whole", Silent())
    return tmp_path / "whole"


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("below", ["checkpoints", "-checkpoints"])
def test_every_file_of_a_grpo_run(recipe_file: Path, stopped: Path, whole: Path, tmp_path: Path, below: str) -> None:
    refusals = sweep(grpo(recipe_file, STOP + 1), stopped, whole, tmp_path, below)
    assert bool(refusals) == below.startswith("-")  # one damaged checkpoint is never the end of a run


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_every_file_of_a_fine_tuning_run(sft_file: Path, tmp_path: Path) -> None:
    def runner(epochs: float) -> Callable[[Path, Progress], Any]:
        recipe = load_recipe(sft_file, [f"epochs={epochs}", "optimizer.schedule=constant", "checkpoint.every=1"])
        return lambda out, progress: train_sft(recipe, out, resume=True, progress=progress)

    runner(0.5)(tmp_path / "stopped", Silent())
    shutil.copytree(tmp_path / "stopped", tmp_path / "whole")
    runner(1)(tmp_path / "whole", Silent())
    assert sweep(runner(1), tmp_path / "stopped", tmp_path / "whole", tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_every_file_of_a_reward_model_run(tiny_folder: Callable[..., Path], tmp_path: Path) -> None:
    path = tmp_path / "rm.yaml"
    data = write_rows(tmp_path / "pairs.jsonl", pairs(20))
    path.write_text(REWARD_MODEL.format(model=tiny_folder("llama"), data=data))

    def runner(epochs: int) -> Callable[[Path, Progress], Any]:
        recipe = load_recipe(path, [f"epochs={epochs}", "optimizer.schedule=constant", "checkpoint.every=1"])
        return lambda out, progress: train_reward_model(recipe, out, resume=True, progress=progress)

    runner(1)(tmp_path / "stopped", Silent())
    shutil.copytree(tmp_path / "stopped", tmp_path / "whole")
    runner(2)(tmp_path / "whole", Silent())
    assert sweep(runner(2), tmp_path / "stopped", tmp_path / "whole", tmp_path)


def test_a_damaged_checkpoint_falls_back(recipe_file: Path, stopped: Path, whole: Path) -> None:
    """To the one before, and to a lost batch's beginning there is none: then the run says so."""
    (newest, _), (before, _) = RunFolder.open(stopped).checkpoints()
    damage(stopped / "checkpoints" / f"step-{newest:06d}" / "optimizer.safetensors", "flipped")
    notes = Notes()
    grpo(recipe_file, STOP + 1)(stopped, notes)
    assert len(notes.said) == 2, notes.said
    (said,) = [note for note in notes.said if "damaged" in note]
    assert f"step-{newest:06d}/optimizer.safetensors` is damaged" in said
    assert f"goes on from step {before}" in said
    for run in (stopped, whole):
        assert [row["step"] for row in RunFolder.open(run).metrics()] == list(range(STOP + 2))
    file = Path("model") / "model.safetensors"
    assert (stopped / file).read_bytes() == (whole / file).read_bytes()
    (stopped / "rollouts" / "batch-000001.parquet").unlink()
    for _, path in RunFolder.open(stopped).checkpoints():
        damage(path / "state.json", "zeroed")
    with pytest.raises(RunFolderError, match=r"state\.json.* is damaged.*No other checkpoint.*first step"):
        grpo(recipe_file, STOP + 2)(stopped, notes)
