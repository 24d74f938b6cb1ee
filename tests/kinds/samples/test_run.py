"""Curation from recipe to files: what is kept and why, judges, teachers, endpoints, the command."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from rethink.cli import main
from rethink.errors import RunFailure
from rethink.kinds.samples.drawing import different_problems
from rethink.kinds.samples.general import general_prompts
from rethink.kinds.samples.recipe import CurateRecipe
from rethink.recipe.recipe_files import find_recipe, load_recipe
from rethink.tasks.conversations import read_conversations
from rethink.tasks.mix import build_task_mix
from tests.rewards.misbehaving import Misbehaving, completion, misbehaving_server

from .conftest import SAMPLED, Run, killed_recipe, rows, same_files

# --- what is kept ------------------------------------------------------------------------------------------------


def test_every_sample_has_its_reason(run: Run, tmp_path: Path) -> None:
    summary = run(tmp_path / "out")
    found = rows(tmp_path / "out" / "samples.jsonl")
    assert len(found) == 20 * 6
    assert len({row["id"] for row in found}) == len(found)
    assert {row["task"] for row in found} == {"sums", "products"}
    for row in found:
        text = row["completion"]
        assert row["messages"] == [
            {"role": "user", "content": row["question"]}, {"role": "assistant", "content": text}
        ]  # fmt: skip
        assert text.startswith("<think>")
        wanted = (
            {"truncated"} if "goes on" in text else {"incorrect"} if "wrong" in text or "No end" in text
            else {"stray-tags"} if "im_end" in text else {"stray-code"} if "print" in text else {"kept", "duplicate"}
        )  # fmt: skip
        assert row["reason"] in wanted, text
        assert row["kept"] == (row["reason"] == "kept")
        assert row["tokens"] > 0
        assert set(row["rewards"]) == {"accuracy", "format", "language"}
        assert set(row["source"]) == {"model", "stage", "seed", "index"}
    kept = [row for row in found if row["kept"]]
    trained = rows(tmp_path / "out" / "train.jsonl")
    assert sorted(row["id"] for row in trained) == sorted(row["id"] for row in kept)
    assert summary["finished"]
    assert summary["kept"] == len(kept) > 20
    statistics = json.loads((tmp_path / "out" / "statistics.json").read_text())
    assert statistics["reasons"] == dict(Counter(row["reason"] for row in found).most_common())
    assert statistics["total"]["tokens"] == pytest.approx(sum(row["tokens"] for row in kept) / len(kept))
    assert statistics["readability"]["kept"] > statistics["readability"]["all"]
    table = (tmp_path / "out" / "statistics.md").read_text()
    assert f"| **total** | {len(kept)} | 1.0 |" in table
    assert len(read_conversations(str(tmp_path / "out" / "train.jsonl")).rows) == len(kept)


def test_choice_balance_and_general_data(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(out, "choose={rule: shortest, keep: 1}", "balance=0.5", "tasks.0.weight=3",
        "general={share: 0.25, max_new_tokens: 100, prompt: {template: raw}}")  # fmt: skip
    found = rows(out / "samples.jsonl")
    kept = Counter(row["task"] for row in found if row["kept"])
    assert kept["sums"] == kept["products"] > 2
    assert kept["general"] == round((kept["sums"] + kept["products"]) / 3)
    for row in found:
        others = [o for o in found if o["question"] == row["question"] and o["reason"] in ("kept", "over-balance")]
        if row["reason"] == "not-chosen" and row["task"] != "general":
            assert min(o["tokens"] for o in others) <= row["tokens"]
    general = [row for row in found if row["task"] == "general" and row["kept"]]
    assert all(row["question"] in general_prompts(None) for row in general)
    assert all(re.fullmatch(r"I think of \d+\.", row["completion"]) for row in general)


def test_the_users_own_data(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file takes the model's place, and another that of the general prompts; nothing is sampled."""
    chats = [{"prompt": f"say {i}", "completion": f"{i}"} for i in range(9)]
    (tmp_path / "chats.jsonl").write_text("".join(json.dumps(chat) + "\n" for chat in chats))
    good = "<think>It is so.</think> <answer>5</answer>"
    mine = [
        {"question": "2 + 3?", "completion": good, "gold": "5"},
        {"prompt": "2 + 3?", "completion": good, "answer": 5},
        {"question": "2 + 4?", "completion": good, "gold": "6"},
        {"messages": [{"role": "user", "content": "2 + 3 ?"}, {"role": "assistant", "content": "5"}], "gold": "5"},
        {"messages": [{"role": "user", "content": "hi"}], "completion": good},
    ]
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in mine))
    engines: list[Any] = []
    out = tmp_path / "out"
    read: list[str] = []
    loaded = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: (read.append(path.name), loaded(path))[1])
    run(out, f"source={tmp_path}/mine.jsonl", "tasks=[]", f"general={{share: 0.5, path: {tmp_path}/chats.jsonl}}",
        engines=engines)  # fmt: skip
    assert engines == []
    found = rows(out / "samples.jsonl")
    assert [row["reason"] for row in found] == ["kept", "duplicate", "incorrect", "incorrect", "unjudged", "kept"]
    assert read.count("chats.jsonl") == 1
    assert found[5]["task"] == "general"


def test_samples_are_filtered_anew_without_sampling(run: Run, tmp_path: Path) -> None:
    first, engines = tmp_path / "first", []
    run(first, "general={share: 0.2, max_new_tokens: 100, prompt: {template: raw}}")
    run(tmp_path / "second", f"source={first}/samples.jsonl", "filters.code=false", engines=engines)
    assert engines == []
    one, two = rows(first / "samples.jsonl"), rows(tmp_path / "second" / "samples.jsonl")
    assert [row["id"] for row in two] == [row["id"] for row in one if row["task"] != "general"]
    changed = {row["reason"] for row, new in zip(one, two, strict=False) if row["reason"] != new["reason"]}
    assert changed == {"stray-code"}
    run(tmp_path / "third", f"source={first}/samples.jsonl")
    third = rows(tmp_path / "third" / "samples.jsonl")
    assert [row["reason"] for row in third] == [row["reason"] for row in one if row["task"] != "general"]


def test_problems_are_different_ones(recipe_file: Path) -> None:
    recipe = load_recipe(recipe_file)
    assert isinstance(recipe, CurateRecipe)
    problems = different_problems(build_task_mix(recipe.tasks, recipe.reward, recipe.seed), 500)
    assert len({(p.task, p.question) for p in problems}) == len(problems)
    assert 20 < len(problems) <= 36, "all that are not held out, once"


# --- judge and teacher -------------------------------------------------------------------------------------------


def test_a_judge_decides_where_rules_cannot(run: Run, tmp_path: Path, endpoint: Misbehaving) -> None:
    texts = {"Paris": 9, "Lyon": 2}
    mine = [
        {"question": "Capital?", "completion": f"<think>So.</think> <answer>{t}</answer>", "gold": None} for t in texts
    ]
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in mine))
    endpoint.reply = "It is alike.\nScore: 9"
    out = tmp_path / "out"
    overrides = [f"source={tmp_path}/mine.jsonl", "tasks=[]", f"judge.params={{url: '{endpoint.url}', model: grader}}"]
    run(out, *overrides)
    found = rows(out / "samples.jsonl")
    assert [(row["reason"], row["judge"]) for row in found] == [("kept", 0.9), ("kept", 0.9)]
    endpoint.reply = "Far from it.\nScore: 2"
    with pytest.raises(RunFailure, match=r"Most went to `judged-wrong`: lower `judge.least`"):
        run(tmp_path / "other", *overrides)
    assert not (tmp_path / "other" / "train.jsonl").exists()
    assert len(rows(tmp_path / "other" / "samples.jsonl")) == 2


def test_the_judged_rule_asks_for_the_good_ones_alone(run: Run, tmp_path: Path, endpoint: Misbehaving) -> None:
    endpoint.reply = "Score: 7"
    out = tmp_path / "out"
    run(out, "choose.rule=judged", f"judge.params={{url: '{endpoint.url}', model: grader}}")
    found = rows(out / "samples.jsonl")
    good = [row for row in found if row["reason"] in ("kept", "not-chosen")]
    assert {row["judge"] for row in good} == {0.7}
    assert {row["judge"] for row in found if row not in good} == {None}
    assert sum(row["kept"] for row in found) == len({row["question"] for row in good})


REWRITTEN = "<think>First we look at both numbers, then we say it.</think> <answer>{}</answer>"


def test_a_teacher_rewrites_and_is_checked(run: Run, tmp_path: Path, endpoint: Misbehaving) -> None:
    endpoint.reply = REWRITTEN.format(6)
    out = tmp_path / "out"
    teacher = f"teacher={{model: big, url: '{endpoint.url}'}}"
    run(out, teacher)
    found = rows(out / "samples.jsonl")
    asked = [row for row in found if row["original"] is not None]
    assert {row["completion"] for row in asked} == {endpoint.reply}
    assert {(row["reason"], row["gold"] == "6") for row in asked} == {("kept", True), ("rewrite-incorrect", False)}
    assert all(row["original"].startswith("<think>") and row["source"]["teacher"] == "big" for row in asked)
    before = len(endpoint.requests)
    assert before == len(asked)
    prompts = [request["messages"][-1]["content"] for request in endpoint.requests]
    assert all("{completion}" not in prompt and "<think>" in prompt for prompt in prompts)


def test_a_teacher_that_dies_is_asked_for_nothing_twice(run: Run, tmp_path: Path, endpoint: Misbehaving) -> None:
    endpoint.reply = REWRITTEN.format(6)
    teacher = [f"teacher={{model: big, url: '{endpoint.url}', attempts: 2, concurrency: 1}}"]
    run(tmp_path / "whole", *teacher)
    whole = len(endpoint.requests)
    endpoint.requests.clear()
    out = tmp_path / "out"
    endpoint.plan = [*([completion(endpoint.reply)] * 5), *([(500, {})] * 400)]
    engines: list[Any] = []
    with pytest.raises(RunFailure, match=r"teacher's endpoint does not answer.*HTTP 500.*--resume"):
        run(out, *teacher, engines=engines)
    assert not (out / "train.jsonl").exists()
    endpoint.plan, endpoint.requests = [], []
    engines.clear()
    run(out, *teacher, resume=True, engines=engines)
    assert engines == [], "nothing is sampled again"
    assert len(endpoint.requests) == whole - 5
    same_files(tmp_path / "whole", out)


def test_a_reply_of_no_use_costs_one_sample(run: Run, tmp_path: Path, endpoint: Misbehaving) -> None:
    endpoint.reply = REWRITTEN.format(6)
    endpoint.plan = [(400, {})]
    out = tmp_path / "out"
    run(out, f"teacher={{model: big, url: '{endpoint.url}', concurrency: 1}}")
    failed = [row for row in rows(out / "samples.jsonl") if row["reason"] == "rewrite-failed"]
    assert len(failed) == 1
    assert "HTTP 400" in failed[0]["failures"]["teacher"]


# --- an endpoint that is sampled -------------------------------------------------------------------------------------


def asks(endpoint: Misbehaving, **more: Any) -> str:
    settings = {"model": "big", "url": endpoint.url, "attempts": 2, "concurrency": 1, **more}
    return f"endpoint={json.dumps(settings)}"


def test_an_endpoint_is_sampled(
    run: Run, tmp_path: Path, endpoint: Misbehaving, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEACHER_KEY", "sk-secret")
    endpoint.reply = REWRITTEN.format(6)
    apart = {"role": "assistant", "content": "<answer>6</answer>", "reasoning_content": "We think of it for long."}
    cut = {"role": "assistant", "content": None, "reasoning_content": "On and on"}
    endpoint.plan = [
        json.dumps({"choices": [{"message": message, "finish_reason": why}]}).encode()
        for message, why in ((apart, "stop"), (cut, "length"))
    ]
    endpoint.plan.append((400, {}))
    out, engines = tmp_path / "out", []
    summary = run(out, *SAMPLED, asks(endpoint, key_env="TEACHER_KEY"), engines=engines)
    assert engines == []
    found = rows(out / "samples.jsonl")
    assert [row["reason"] for row in found[:4]] == ["kept", "truncated", "no-reply", "kept"]
    assert found[0]["completion"] == "<think>\nWe think of it for long.\n</think>\n\n<answer>6</answer>"
    assert found[1]["completion"] == "<think>\nOn and on\n"
    assert "HTTP 400" in found[2]["failures"]["endpoint"]
    assert {row["completion"] for row in found[3:]} == {endpoint.reply}
    assert all((row["rewards"]["accuracy"] == 1) == (row["gold"] == "6") and row["tokens"] > 0 for row in found[3:])
    assert summary["kept"] == 16
    assert len(endpoint.requests) == 18
    assert {headers["Authorization"] for headers in endpoint.headers} == {"Bearer sk-secret"}
    seeds = [request["seed"] for request in endpoint.requests]
    assert len(set(seeds)) == 18
    assert seeds == [row["source"]["seed"] for row in found]
    first = endpoint.requests[0]
    assert [first[key] for key in ("model", "temperature", "top_p", "max_tokens")] == ["big", 0.7, 0.9, 50]
    assert [turn["content"] for turn in first["messages"]] == [
        "Think.", "What is 1 + 1?", "two", f"What is {found[0]['question']}?"
    ]  # fmt: skip
    assert [turn["role"] for turn in rows(out / "train.jsonl")[0]["messages"]] == ["system", "user", "assistant"]
    assert b"sk-secret" not in b"".join(path.read_bytes() for path in out.rglob("*") if path.is_file())


def test_a_sampled_endpoint_that_dies_is_asked_for_nothing_twice(
    run: Run, tmp_path: Path, endpoint: Misbehaving
) -> None:
    endpoint.reply = REWRITTEN.format(6)
    run(tmp_path / "whole", *SAMPLED, asks(endpoint))
    endpoint.requests.clear()
    out = tmp_path / "out"
    endpoint.plan = [*([completion(endpoint.reply)] * 8), *([(500, {})] * 40)]
    with pytest.raises(RunFailure, match=r"model's endpoint does not answer.*HTTP 500.*`endpoint.url` may change"):
        run(out, *SAMPLED, asks(endpoint))
    asked = [request["seed"] for request in endpoint.requests[:8]]
    endpoint.plan, endpoint.requests = [], []
    with misbehaving_server() as elsewhere:
        elsewhere.reply = endpoint.reply
        run(out, *SAMPLED, asks(elsewhere), resume=True)
        again = [request["seed"] for request in elsewhere.requests]
    assert endpoint.requests == []
    assert len(again) == 18 - 8
    assert not set(again) & set(asked)
    same_files(tmp_path / "whole", out)


# --- what ships --------------------------------------------------------------------------------------------------


def test_the_command_and_its_plan(recipe_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["train", str(recipe_file), "--dry-run"]) == 0
    assert "120 samples of at most 150 tokens" in capsys.readouterr().out
    out = tmp_path / "out"
    code = main.main(["train", str(killed_recipe(recipe_file)), "--out", str(out), "--json"])
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert code == 0
    assert events[-1]["event"] == "summary"
    assert sum(event["event"] == "step" for event in events) == 3
    assert {"rollout", "teacher", "general"} <= {event.get("phase") for event in events}
    assert main.main(["train", str(killed_recipe(recipe_file)), "--out", str(out), "--resume", "--plain"]) == 0
    assert "| domain | samples |" in capsys.readouterr().out


def test_the_shipped_recipe_and_prompts() -> None:
    assert isinstance(load_recipe(find_recipe("cold-start")), CurateRecipe)
    assert len(general_prompts(None)) >= 150
