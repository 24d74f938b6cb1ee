"""Every verb with text that a terminal would obey: in names, data, completions, files and YAML keys."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rethink.cli import main
from rethink.errors import RunFailure
from rethink.eval.comparison import BenchmarkComparison, Comparison, Difference
from rethink.rollout import one_prompt
from rethink.rollout.one_prompt import Answered
from rethink.terminal import visible
from rethink.types import Completion, Prompt
from tests.kinds.pipeline.conftest import EVALUATION, RECIPE, Fake

HOSTILE = "\x1b]0;owned\x07\x1b[2J\x9b31m\u202etxt\u2066\u200b\r[bold][nonsense]"
Capture = pytest.CaptureFixture[str]


def run(*words: str | Path) -> int:
    try:
        return main.main([str(word) for word in words])
    except SystemExit as stopped:
        return int(stopped.code or 0)


def shown(capsys: Capture, *expected: str) -> str:
    """What was printed, which holds the expected texts and nothing that a terminal obeys."""
    said = "".join(capsys.readouterr())
    assert visible(said) == said
    for text in expected or ("␛]0;owned␇",):
        assert text in said
    return said


REFUSED = {
    "train": [["train", HOSTILE], ["train", "quickstart", f"{HOSTILE}=1"], ["train", "quickstart", f"seed={HOSTILE}"]],
    "runs": [["runs", HOSTILE]],
    "status": [["status", HOSTILE]],
    "clean": [["clean", HOSTILE]],
    "check": [["check", HOSTILE], ["check", "quickstart", f"tasks.0.name={HOSTILE}"]],
    "sample": [["sample", "--model", HOSTILE, "x"], ["sample", "x", HOSTILE]],
    "chat": [["chat", "--model", HOSTILE]],
    "serve": [["serve", "--model", HOSTILE], ["serve", "--model", "embedded", "--api-key-env", HOSTILE]],
    "score": [["score", "--reward", HOSTILE, "--data", "DATA", "--out", "OUT"],
              ["score", "--reward", "math", "--data", HOSTILE, "--out", "OUT"],
              ["score", "--reward", "math", "--option", HOSTILE, "--data", "DATA", "--out", "OUT"],
              ["score", "--reward", "math", "--completion", HOSTILE, "--data", "DATA", "--out", "OUT"]],
    "eval": [["eval", "--model", HOSTILE, "--bench", "chain_sum", "--limit", "1", "--out", "OUT"],
             ["eval", "--model", "embedded", "--bench", HOSTILE]],
    "compare": [["compare", HOSTILE, HOSTILE]],
    "export": [["export", HOSTILE, "--to", "gguf", "--out", "OUT.gguf"]],
    "report": [["report", HOSTILE]],
    "profile": [["profile", HOSTILE]],
    "doctor": [["doctor", HOSTILE]],
    "algorithms": [["algorithms", HOSTILE]],
    "gpu-check": [["gpu-check", "--device", "cpu", "--small", "--only", HOSTILE, "--out", "OUT"]],
    "cluster": [["cluster", "plan", HOSTILE, "local:2"], ["cluster", "plan", "quickstart", HOSTILE],
                ["cluster", "up", HOSTILE], ["cluster", "down", HOSTILE], ["cluster", "status", HOSTILE],
                ["cluster", "template", "slurm", HOSTILE, "--workers", "1"]],
    "tasks": [["tasks", HOSTILE], ["tasks", "chain_sum", "--option", HOSTILE], ["tasks", "--recipe", HOSTILE],
              ["tasks", "chain_sum", "--option", f"{HOSTILE}=1"], ["tasks", "chain_sum", "--model", HOSTILE]],
}  # fmt: skip


def test_every_verb_is_tried() -> None:
    verbs = next(a for a in main.build_parser()._actions if a.dest == "==SUPPRESS==" or a.choices)
    assert set(REFUSED) == set(verbs.choices or ())


@pytest.mark.parametrize("words", [words for several in REFUSED.values() for words in several])
def test_refusals_show_what_was_given(words: list[str], tmp_path: Path, capsys: Capture) -> None:
    data = tmp_path / "data.jsonl"
    data.write_text(json.dumps({"completion": "5", "gold": "5"}) + "\n")
    places = {"DATA": str(data), "OUT": str(tmp_path / "out"), "OUT.gguf": str(tmp_path / "out.gguf")}
    assert run(*[places.get(word, word) for word in words]) in (1, 2)
    shown(capsys, "owned")


@pytest.mark.parametrize("yaml", [
    '"{0}": 1\nname: x\n',
    'name: x\nkind: "{0}"\n',
    'name: x\nsteps: "{0}"\ntasks: [{{kind: reasoning-gym, name: "{0}"}}]\n',
    'name: x\nsteps: 1\ntasks: [{{kind: reasoning-gym, name: chain_sum, params: {{"{0}": 1}}}}]\n',
])  # fmt: skip
@pytest.mark.parametrize("verb", ["train", "check", "profile"])
def test_recipes(verb: str, yaml: str, tmp_path: Path, capsys: Capture) -> None:
    path = tmp_path / f"{HOSTILE}.yaml"
    spelled = "".join(f"\\x{ord(c):02x}" if ord(c) < 256 else f"\\u{ord(c):04x}" for c in HOSTILE)
    path.write_text(yaml.format(spelled))
    assert run(verb, path) in (1, 2)
    shown(capsys, "owned")


@pytest.mark.parametrize("words", [[], ["--n", "2"], ["--json"]])
def test_completions(words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    nothing = np.zeros(0, np.float32)

    def sample_text(*_: Any, seeds: range, **__: Any) -> Answered:
        completions = [Completion(np.zeros(0, np.int32), HOSTILE, nothing, nothing, "stop") for _i in seeds]
        return Answered(Prompt("", ()), completions, None)

    monkeypatch.setattr(one_prompt, "sample_text", sample_text)
    assert run("sample", "hello", *words) == 0
    if words == ["--json"]:
        said = capsys.readouterr().out
        assert visible(said) == said
        assert json.loads(said)["text"] == HOSTILE
    else:
        shown(capsys)


def test_scores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    monkeypatch.chdir(tmp_path)
    module = Path(f"{HOSTILE}.py".replace("\r", ""))
    module.write_text("def f(problem, text):\n    raise ValueError(text)\n")
    data = Path(f"{HOSTILE}.jsonl")
    row = {"id": HOSTILE, "completion": HOSTILE, "gold": "5", HOSTILE: HOSTILE}
    data.write_text(json.dumps(row) + "\n")
    words = ["score", "--reward", f"{module}:f", "--data", data, "--expect", HOSTILE, "--out", f"{HOSTILE}.out"]
    assert run(*words) == 0
    assert "of 1 rows agree" in shown(capsys)
    assert run(*words, "--json", "--strict") == 1
    shown(capsys, "\\u202e")


def test_comparisons(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    from rethink.eval.statistics.estimates import paired_comparison

    difference = Difference(HOSTILE, HOSTILE, HOSTILE, 0.0, 1.0, HOSTILE, HOSTILE)
    paired = paired_comparison([0.0, 1.0], [1.0, 1.0])
    of = BenchmarkComparison(HOSTILE, paired, 1, 1, (difference,))
    monkeypatch.setattr("rethink.eval.comparison.compare_folders", lambda *_: Comparison(HOSTILE, HOSTILE, (of,)))
    assert run("compare", HOSTILE, HOSTILE) == 0
    shown(capsys)


def test_pipelines(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Capture) -> None:
    fake = Fake(failing={"zero": RunFailure(HOSTILE)})
    monkeypatch.setattr("rethink.kinds.pipeline.run.runner", lambda kind: fake)
    monkeypatch.setattr("rethink.kinds.pipeline.run.environment", dict)
    monkeypatch.setattr("rethink.runs.session.environment", dict)
    recipe, out = tmp_path / "small.yaml", tmp_path / f"out{HOSTILE}"
    recipe.write_text(RECIPE + EVALUATION)
    assert run("train", recipe, "--out", out, "--plain") == 1
    shown(capsys)
    assert run("status", out) == 0
    shown(capsys)
    assert run("status", out, "--json") == 0
    shown(capsys, "owned")
    assert run("status", out, "--lineage", "zero") == 0
    shown(capsys)
    assert run("status", out, "--lineage", HOSTILE) == 2
    shown(capsys)
    assert run("report", out) == 0
    shown(capsys)


def test_an_interruption_shows_a_harmless_command(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("rethink.eval.evaluate.evaluate_all", interrupted)
    monkeypatch.setattr(sys, "argv", ["rethink", "eval", "--model", HOSTILE])
    assert run("eval", "--model", HOSTILE, "--bench", "chain_sum") == 130
    shown(capsys)
