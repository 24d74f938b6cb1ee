"""`rethink score`, from the command line to the file it writes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rethink.cli.main import main
from rethink.store.rollout_files import write_rollouts
from rethink.types import Completion, Problem, Prompt, RewardOutcome, Rollout

Score = Callable[..., tuple[int, list[dict[str, Any]], dict[str, Any]]]
GOOD = "<think>so</think><answer>5</answer>"


@pytest.fixture
def score(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Score:
    """`score(rows, *arguments)` -> exit code, written rows, JSON summary."""

    def run(rows: list[dict[str, Any]] | Path, *arguments: str) -> tuple[int, list[dict[str, Any]], dict[str, Any]]:
        data, out = tmp_path / "data.jsonl", tmp_path / "out.jsonl"
        if isinstance(rows, Path):
            data = rows
        else:
            data.write_text("".join(json.dumps(row) + "\n" for row in rows))
        code = main(["score", "--data", str(data), "--out", str(out), "--json", *arguments])
        written = [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []
        said = capsys.readouterr()
        return code, written, json.loads(said.out) if said.out else {"error": said.err}

    return run


def test_rows_are_written_in_order_with_parts_and_failures(
    score: Score, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.py").write_text("def f(problem, text):\n    return 1 / (len(text) - 1)\n")
    monkeypatch.chdir(tmp_path)
    rows = [
        {"id": "a", "gold": "5", "completion": GOOD},
        {"id": "b", "gold": "6", "completion": GOOD},
        {"gold": None, "completion": "5"},
    ]
    code, written, summary = score(rows, "--reward", "math,format,mine.py:f")
    assert code == 0
    assert [row["id"] for row in written] == ["a", "b", 3]
    assert written[0]["parts"] == {"math": 1, "format": 1, "mine.py:f": pytest.approx(1 / 34)}
    assert written[0]["score"] == pytest.approx(2 + 1 / 34)
    assert written[2] == {
        "id": 3,
        "score": 0,
        "parts": {"math": None, "format": 0, "mine.py:f": None},
        "failure": "mine.py:f: exception: ZeroDivisionError: division by zero (mine.py:2)",
    }
    assert summary["parts"]["math"] == {
        "scored": 2, "mean": 0.5, "full": 1, "zero": 1, "abstained": 1, "failed": 0, "causes": {},
    }  # fmt: skip
    assert summary["parts"]["mine.py:f"]["causes"] == {"exception": 1}


def test_an_abstention_is_null(score: Score) -> None:
    _, written, _ = score([{"gold": "", "completion": "5"}], "--reward", "math")
    assert written[0] == {"id": 1, "score": None, "parts": {"math": None}, "failure": None}


def test_expected_verdicts_scores_and_nulls_are_compared(score: Score) -> None:
    rows = [
        {"id": 1, "g": "5", "c": "\\boxed{5}", "want": True},
        {"id": 2, "g": "5", "c": "\\boxed{6}", "want": False},
        {"id": 3, "g": "5", "c": "\\boxed{6}", "want": True},
        {"id": 4, "g": "5", "c": "\\boxed{5}", "want": 1},
        {"id": 5, "g": "5", "c": "\\boxed{5}", "want": 0.5},
        {"id": 6, "g": None, "c": "\\boxed{5}", "want": None},
        {"id": 7, "g": None, "c": "\\boxed{5}", "want": False},
    ]
    arguments = ("--reward", "math", "--gold", "g", "--completion", "c", "--expect", "want")
    code, _, summary = score(rows, *arguments)
    assert (code, summary["compared"], summary["disagreements"]) == (0, 7, [3, 5, 7])
    assert score(rows, *arguments, "--strict")[0] == 1
    assert score(rows[:2], *arguments, "--strict")[0] == 0


def test_options_come_from_the_command_and_from_rows(score: Score) -> None:
    rows = [
        {"length": 90, "expected": -0.5},
        {"length": 90, "params": {"soft_punish_cache": 40}, "expected": -0.75},
        {"inputs": {"length": 110}, "expected": -1},
        {"completion_ids": [0] * 90, "expected": -0.5},
    ]
    options = ("--option", "overlong.max_completion_len=100", "--option", "overlong.soft_punish_cache=20")
    code, _, summary = score(rows, "--reward", "overlong", "--expect", "expected", "--strict", *options)
    assert (code, summary["disagreements"]) == (0, [])


def test_the_cosine_reward_takes_a_recorded_verdict_or_judges_itself(score: Score) -> None:
    rows = [
        {"correct": True, "length": 25, "expected": 0.92678},
        {"correct": False, "length": 25, "expected": -0.92678},
        {"gold": "5", "completion": "\\boxed{5}", "length": 25, "expected": 0.92678},
    ]
    code, _, _ = score(rows, "--reward", "cosine", "--option", "cosine.max_len=100", "--expect", "expected", "--strict")
    assert code == 0


def test_a_task_of_reasoning_gym_and_the_rollouts_of_a_run(score: Score, tmp_path: Path) -> None:
    import reasoning_gym

    entry = reasoning_gym.create_dataset("chain_sum", seed=0)[7]
    problem = Problem(
        "p", "chain_sum", entry["question"], entry["answer"], {"task": "chain_sum", "index": 7, "params": {}}
    )
    zeros = np.zeros(4, np.float32)
    rollouts = [
        Rollout(
            problem,
            Prompt("…<think>", (1,), "<think>"),
            Completion(np.arange(4, dtype=np.int32), f"a</think><answer>{said}</answer>", zeros, zeros, "stop"),
            {"accuracy": RewardOutcome(1.0)},
            1.0,
        )
        for said in (entry["answer"], "x")
    ]
    (tmp_path / "run" / "rollouts").mkdir(parents=True)
    write_rollouts(tmp_path / "run" / "rollouts" / "batch-000000.parquet", 0, rollouts, {"step": 1}, 2)
    for data in (tmp_path / "run", tmp_path / "run" / "rollouts" / "batch-000000.parquet"):
        _, written, _ = score(data, "--reward", "chain_sum,format,number")
        assert [row["parts"]["format"] for row in written] == [1, 1]  # the prefill counts
        assert written[0]["parts"]["chain_sum"] == 1
        assert written[1]["parts"]["chain_sum"] != 1
        assert [row["parts"]["number"] for row in written] == [1, 0]


UNREAD = [
    ({"gold": "5", "completion": None}, "has no text under"),
    ({"gold": "5"}, "has no text under"),
    ({"completion": "5", "tokens": 10**12}, "the length 1000000000000; give a whole number"),
    ({"completion": "5", "tokens": 1e12}, "the length 1000000000000.0"),
    ({"completion": "5", "length": 10**400}, "the length 1000"),
    ({"completion": "5", "length": -1}, "the length -1"),
    ({"completion": "5", "length": 2.5}, "the length 2.5"),
    ({"completion": "5", "token_ids": [2**40]}, "token ids that are none"),
    ({"completion": "5", "token_ids": [1, "a", [2]]}, "token ids that are none"),
    ({"completion": "5", "params": {"max_len": 0}}, "its own `params` are refused"),
    ({"completion": "5", "params": {"sandbox": "none"}}, "its own `params` are refused"),
]


def test_a_row_that_cannot_be_scored_fails_alone(score: Score) -> None:
    good = {"id": "good", "gold": "5", "completion": "\\boxed{5}", "tokens": 25.0, "match": True}
    rows = [good, *({"id": i} | row | {"match": None} for i, (row, _) in enumerate(UNREAD)), good]
    code, written, summary = score(
        rows, "--reward", "cosine,math", "--option", "cosine.max_len=100", "--expect", "match"
    )
    assert (code, len(written), summary["unread"]) == (0, len(rows), len(UNREAD))
    assert [written[i]["parts"] for i in (0, -1)] == [{"cosine": pytest.approx(0.92678, abs=1e-4), "math": 1.0}] * 2
    for row, (_, says) in zip(written[1:-1], UNREAD, strict=True):
        assert row["score"] is None
        assert says in row["failure"]
    assert summary["parts"]["math"]["failed"] == len(UNREAD)
    assert summary["parts"]["math"]["causes"] == {"row": len(UNREAD)}
    assert summary["disagreements"] == list(range(len(UNREAD)))  # an error is no abstention


def test_params_of_a_row_reach_no_other_reward(score: Score) -> None:
    """They could choose an address, a limit or the sandbox."""
    row = {"gold": "5", "completion": "5", "params": {"tags": "nonsense", "anything": 1}}
    _, written, _ = score([row], "--reward", "format,math")
    assert written[0]["failure"] is None


def test_strange_ids_and_expectations(score: Score, tmp_path: Path) -> None:
    path = tmp_path / "strange.jsonl"
    path.write_text(
        '{"id": NaN, "gold": "5", "completion": "5", "want": 1%s}\n' % ("0" * 400)
        + '{"id": [1], "gold": "5", "completion": "5", "want": Infinity}\n'
    )
    code, written, summary = score(path, "--reward", "math", "--expect", "want")
    assert (code, [row["id"] for row in written]) == (0, ["nan", "[1]"])
    assert summary["disagreements"] == ["nan", "[1]"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--reward", "mth"), "did you mean `math`"),
        (("--reward", "math,math"), "name each reward once"),
        (("--reward", "no_module:f"), "no_module"),
        (("--reward", "math", "--option", "x"), "write it as reward.option=value"),
        (("--reward", "math", "--option", "format.code=py"), "which --reward does not"),
        (("--reward", "repetition", "--option", "repetition.n=3"), "did you mean `ngram_size`|no option `n`"),
        (("--reward", "math", "--completion", "nope"), "row 1 has no text under `nope`"),
    ],
)
def test_mistakes_are_named_before_anything_is_scored(score: Score, arguments: tuple[str, ...], says: str) -> None:
    code, written, said = score([{"gold": "5", "completion": "5"}], *arguments)
    assert (code, written) == (2, [])
    import re

    assert re.search(says, said["error"])


@pytest.mark.parametrize(
    ("text", "says"), [("", "no rows"), ("{", "line 1, is not JSON"), ("[1]", "line 1, is a list")]
)
def test_files_that_cannot_be_read(score: Score, tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text(text)
    code, _, said = score(path, "--reward", "format")
    assert code == 2
    assert says in said["error"]
    assert score(tmp_path / "missing.jsonl", "--reward", "format")[0] == 2
    assert score(tmp_path, "--reward", "format")[0] == 2
