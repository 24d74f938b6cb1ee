"""What a run reads is part of what it is: --resume refuses other data, code or models, and names them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rethink.errors import RunFolderError
from rethink.kinds.grpo.run import train
from rethink.observe.progress import Silent
from rethink.recipe.recipe_files import load_recipe
from rethink.runs import inputs
from rethink.store.contents import content_hash
from tests.paths import SHARED_DATA

RECIPE = """\
name: tiny
steps: 1
threads: 1
model: {{path: {model}, dtype: float32}}
prompt: {{template: raw, instruction: "{{question}}"}}
tasks:
  - {{kind: jsonl, name: {folder}/sums.jsonl, held_out: {folder}/held.jsonl}}
  - {{kind: python, name: "rewards_with_helpers:problems"}}
rollout: {{prompts_per_batch: 1, group_size: 2, max_new_tokens: 2}}
reward:
  parts:
    - {{name: letters, function: "rewards_with_helpers:letters"}}
evaluation: {{problems: 1}}
"""
MODULE = """\
import json, os
import helper_of_rewards

def letters(problem, text):
    return helper_of_rewards.share(text)

def problems():
    with open(os.environ["ROWS_FOR_TESTS"]) as file:
        return json.load(file)
"""


@pytest.fixture
def go(tmp_path: Path, tiny_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """`go(resume=…)` runs in `tmp_path/out`; everything that it reads lies in `tmp_path`."""
    write(tmp_path / "sums.jsonl", [(f"{a} + 1", str(a + 1)) for a in range(6)])
    write(tmp_path / "held.jsonl", [("9 + 9", "18")])
    rows = [{"question": "1 + 7", "answer": "8"}]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    (tmp_path / "rewards_with_helpers.py").write_text(MODULE)
    (tmp_path / "helper_of_rewards.py").write_text("def share(text):\n    return float(len(text) % 3)\n")
    monkeypatch.setenv("ROWS_FOR_TESTS", str(tmp_path / "rows.json"))
    monkeypatch.syspath_prepend(str(tmp_path))
    recipe = tmp_path / "tiny.yaml"
    recipe.write_text(RECIPE.format(model=tiny_folder("llama"), folder=tmp_path))
    return lambda *changes, resume=False: train(
        load_recipe(recipe, ["steps=2" if resume else "steps=1", *changes]),
        tmp_path / "out",
        resume=resume,
        progress=Silent(),
    )


def write(path: Path, rows: list[tuple[str, str]]) -> None:
    path.write_text("".join(json.dumps({"question": q, "answer": a}) + "\n" for q, a in rows))


def edit(path: Path, change: Callable[[list[str]], list[str]]) -> None:
    path.write_text("\n".join(change(path.read_text().splitlines())) + "\n")


def sums(change: Callable[[list[str]], list[str]]) -> Callable[[Path], None]:
    return lambda folder: edit(folder / "sums.jsonl", change)


CHANGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "rows-added": (sums(lambda rows: [*rows, rows[0].replace("0 + 1", "7 + 1")]), "sums.jsonl"),
    "row-removed": (sums(lambda rows: rows[1:]), "sums.jsonl"),
    "reordered": (sums(lambda rows: rows[::-1]), "sums.jsonl"),
    "gold-changed": (sums(lambda rows: [rows[0].replace('"1"', '"2"'), *rows[1:]]), "sums.jsonl"),
    "question-changed": (sums(lambda rows: [rows[0].replace("0 +", "00 +"), *rows[1:]]), "sums.jsonl"),
    "all-replaced": (lambda folder: write(folder / "sums.jsonl", [("3 + 3", "6")] * 3), "sums.jsonl"),
    "held-out-changed": (lambda folder: write(folder / "held.jsonl", [("8 + 8", "16")]), "held.jsonl"),
    "reward-code-changed": (
        lambda folder: edit(folder / "rewards_with_helpers.py", lambda rows: [*rows, "# more"]),
        "rewards_with_helpers.py",
    ),
    "helper-changed": (
        lambda folder: (folder / "helper_of_rewards.py").write_text("def share(text):\n    return 1.0\n"),
        "helper_of_rewards.py",
    ),
    "rows-of-a-function": (
        lambda folder: (folder / "rows.json").write_text('[{"question": "1 + 6", "answer": "7"}]'),
        "tasks.1.rows",
    ),
}


def test_a_change_is_refused_and_named(go: Any, tmp_path: Path) -> None:
    """One run serves all changes: each is undone again, and then the run goes on."""
    go()
    header = json.loads((tmp_path / "out" / "run.json").read_text())
    weights = Path(load_recipe(tmp_path / "tiny.yaml").model.path) / "model.safetensors"
    files = {path: path.read_bytes() for path in [*tmp_path.glob("*.*"), weights] if path.is_file()}
    for name, (make, said) in CHANGES.items():
        make(tmp_path)
        with pytest.raises(RunFolderError, match=rf"{said}.* changed since the run .* began"):
            go(resume=True)
        for path, content in files.items():
            path.write_bytes(content)
        assert json.loads((tmp_path / "out" / "run.json").read_text()) == header, name
    data = bytearray(files[weights])
    data[-9] ^= 1
    weights.write_bytes(bytes(data))
    try:
        with pytest.raises(RunFolderError, match=r"llama` changed since the run"):
            go(resume=True)
    finally:
        weights.write_bytes(files[weights])
    assert go(resume=True)["finished"]


def test_public_cases_are_among_the_changes() -> None:
    path = SHARED_DATA / "cases" / "grpo-resume-data.jsonl"
    if not path.is_file():
        pytest.skip("no shared data")
    assert {json.loads(line)["change"] for line in path.read_text().splitlines()} <= set(CHANGES)


def test_large_files_are_hashed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from rethink.store import contents

    monkeypatch.setenv("RETHINK_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(contents, "LARGE", 4)
    monkeypatch.setattr(contents, "_SETTLED", -1.0)
    read: list[Path] = []
    real = contents.sha256_of
    monkeypatch.setattr(contents, "sha256_of", lambda path: read.append(path) or real(path))
    file = tmp_path / "weights.bin"
    file.write_bytes(b"12345678")
    first = content_hash(file)
    assert content_hash(file) == first
    assert len(read) == 1
    before = file.stat()
    file.write_bytes(b"12345679")  # of the same size, with the same times: only the change of the inode tells
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert content_hash(file) != first
    assert len(read) == 2


def test_which_fields_name_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").mkdir()
    assert inputs.path_of("model", certain=True) == Path("model")
    assert inputs.path_of("model") is None
    assert inputs.path_of("What is 1/2?") is None
    assert inputs.function_hashes("no_such_module:f") == {}
