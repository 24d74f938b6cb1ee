"""`rethink eval` and `rethink compare` from the command line, on a tiny random model."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rethink.cli import main
from rethink.store.rollout_files import count_rows


@pytest.fixture(autouse=True)
def _quick_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine is not measured for every model; one thread, which a tiny model wants."""
    monkeypatch.setattr("rethink.machine.speed.measure_gemm", lambda **_: {"float32": 1.0})
    monkeypatch.setattr("rethink.machine.limits.usable_threads", lambda: 1)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.jsonl"
    rows = [{"id": f"p{i}", "question": f"{i}?", "answer": str(i)} for i in range(6)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def run(*words: str | Path) -> int:
    return main.main([str(word) for word in words])


def test_eval_and_compare(
    tiny_folder: Callable[..., Path], data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    models = [tiny_folder("llama", f"model-{i}", max_position_embeddings=1024, rope_theta=10_000.0 + i) for i in (1, 2)]
    words = ["eval", "--model", ",".join(map(str, models)), "--bench", "gsm8k", "--data", f"gsm8k={data}"]
    words += ["--k", "2", "--limit", "3", "--max-new-tokens", "8", "--out", tmp_path / "out", "--published"]
    assert run(*words) == 0
    printed = capsys.readouterr()
    assert "3 problems, k = 2, temperature 0.6, top-p 0.95, at most 8 tokens (as asked)" in printed.out
    assert "gsm8k: 6 of 6" in printed.err
    out = tmp_path / "out"
    for name in ("model-1", "model-2"):
        row = json.loads((out / name / "results.json").read_text("utf-8"))["gsm8k"]
        assert (row["n"], row["k"], row["truncated"] > 0) == (3, 2, True)
        assert sum(count_rows(path) for path in (out / name / "samples" / "gsm8k").glob("*.parquet")) == 6
    names = {f"table-{n}.{end}" for n in (4, 5, 6) for end in ("md", "tex", "csv", "html")}
    assert {path.name for path in (out / "tables").iterdir()} == names
    assert "published" in (out / "tables" / "table-4.md").read_text("utf-8")

    assert run(*words, "--json") == 0
    parsed = json.loads(capsys.readouterr().out)
    assert set(parsed["results"]) == {str(model) for model in models}

    assert run("compare", out / "model-1", out / "model-2") == 0
    assert "gsm8k: 3 problems" in capsys.readouterr().out
    assert run("compare", out / "model-1", out / "model-1", "--json") == 0
    assert json.loads(capsys.readouterr().out)["benchmarks"][0]["paired"]["p"] == 1.0


def test_gold_answers_that_are_not_the_whole_criterion(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The game of 24 as a file: whoever says 24 would be right everywhere."""

    def stop(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("rethink.eval.backend.open_backend", stop)
    path = tmp_path / "game24.jsonl"
    path.write_text("".join(json.dumps({"question": f"Use {i}, 2, 3, 4.", "answer": "24"}) + "\n" for i in range(9)))
    assert run("eval", "--model", "m", "--bench", path, "--out", tmp_path / "out") == 130
    assert "the answer '24', always, is the gold answer of 9 of 9 problems" in capsys.readouterr().err


def test_prompting_all_prints_the_comparison(
    tiny_folder: Callable[..., Path], data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tiny_folder("llama", max_position_embeddings=2048)
    words = ["eval", "--model", model, "--bench", data, "--limit", "2", "--max-new-tokens", "4", "--temperature", "0"]
    assert run(*words, "--prompting", "all", "--out", tmp_path / "out") == 0
    printed = capsys.readouterr().out
    assert "direct | few-shot | few-shot-cot | zero-shot-cot | r1" in printed
    assert "few-shot prompting hurts DeepSeek-R1" in printed
    assert (tmp_path / "out" / "few-shot-cot" / "results.json").is_file()
    assert (tmp_path / "out" / "tables" / "prompting.html").is_file()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--bench", "gsmk8"], "did you mean gsm8k"),
        (["--bench", ","], "names nothing"),
        (["--bench", "gsm8k", "--data", "x"], "is not BENCH=PATH"),
        (["--bench", "gsm8k", "--data", "math500=x.jsonl"], "which --bench does not name"),
        (["--bench", "gsm8k", "--data", "gsm8k=nowhere.jsonl"], "cannot be read"),
        (["--bench", "chain_sum", "--prompting", "cot"], "no prompting mode"),
        (["--bench", "chain_sum", "--model", "no/such/model/x"], "there is no model"),
        (["--bench", "chain_sum", "--endpoint", "host:1"], "is no URL"),
    ],
)
def test_refusals(words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = words if "--model" in words else [*words, "--model", "embedded"]
    assert run("eval", *given, "--out", tmp_path / "out") == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(("option", "value"), [("--k", "0"), ("--limit", "0"), ("--top-p", "1.5"), ("--k", "x")])
def test_numbers_are_checked_by_the_parser(option: str, value: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        run("eval", "--model", "m", "--bench", "gsm8k", option, value)
    assert ended.value.code == 2
    assert option in capsys.readouterr().err


def test_a_million_tokens(
    tiny_folder: Callable[..., Path], data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["eval", "--model", tiny_folder("llama"), "--bench", data, "--max-new-tokens", "1000000"]
    assert run(*words, "--out", tmp_path / "out") == 2
    assert "--max-new-tokens 1000000 does not fit" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.once
def test_killed_and_resumed_equals_unbroken(tiny_folder: Callable[..., Path], data: Path, tmp_path: Path) -> None:
    """SIGKILL in the middle; what goes on then ends with the numbers and texts of a run that was never stopped."""
    model = tiny_folder("llama", max_position_embeddings=2048)

    def command(out: Path) -> list[str]:
        words = ["eval", "--model", model, "--bench", data, "--k", "4", "--max-new-tokens", "200", "--out", out]
        return [sys.executable, "-c", FLUSH_AT_ONCE, *map(str, words)]

    subprocess.run(command(tmp_path / "whole"), check=True, capture_output=True)
    process = subprocess.Popen(command(tmp_path / "out"), stdout=subprocess.DEVNULL)
    parts = tmp_path / "out" / "samples" / data.stem
    while process.poll() is None and not list(parts.glob("part-*.parquet")):
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = sum(count_rows(path) for path in parts.glob("part-*.parquet"))
    assert 0 < kept < 24
    subprocess.run(command(tmp_path / "out"), check=True, capture_output=True)

    def numbers(folder: Path) -> dict[str, Any]:
        row = json.loads((folder / "results.json").read_text("utf-8"))[data.stem]
        del row["tokens_per_s"]
        return dict(row)

    assert numbers(tmp_path / "out") == numbers(tmp_path / "whole")


FLUSH_AT_ONCE = """
import sys
import rethink.eval.sample_files as samples
from rethink.machine import limits
samples.FLUSH_SAMPLES = 4
limits.usable_threads = lambda: 1
from rethink.cli.main import main
sys.exit(main())
"""
