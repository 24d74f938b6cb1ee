"""Curation from recipe to files: what is kept and why, resume, endpoints that die, refusals, the command."""

from __future__ import annotations

import json
import random
import re
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rethink.cli import main
from rethink.curation import run as run_module
from rethink.curation.drawing import different_problems
from rethink.curation.general import general_prompts
from rethink.curation.parts import in_parts
from rethink.curation.run import curate
from rethink.errors import ModelError, RecipeError, RunFailure, RunFolderError, StorageFailure, TaskError
from rethink.model.tokenizer import Tokenizer
from rethink.observe.progress import make_progress
from rethink.recipe.curate import CurateRecipe, as_training
from rethink.recipe.loading import find_recipe, load_recipe
from rethink.rewards import endpoint as endpoint_module
from rethink.rollout.scripted import Scripted, ScriptedEngine
from rethink.store import atomic
from rethink.tasks.conversations import read_conversations
from rethink.tasks.mix import build_task_mix
from rethink.types import GenerationRequest
from tests.rewards.misbehaving import Misbehaving, completion, misbehaving_server
from tests.train.test_resume import die

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
    monkeypatch.setattr(endpoint_module, "FIRST_WAIT", 0.0)
    with misbehaving_server() as state:
        yield state


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


def test_the_users_own_data(run: Run, tmp_path: Path) -> None:
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
    run(out, f"source={tmp_path}/mine.jsonl", "tasks=[]", f"general={{share: 0.5, path: {tmp_path}/chats.jsonl}}",
        engines=engines)  # fmt: skip
    assert engines == []
    found = rows(out / "samples.jsonl")
    assert [row["reason"] for row in found] == ["kept", "duplicate", "incorrect", "incorrect", "unjudged", "kept"]
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
    problems = different_problems(build_task_mix(as_training(recipe)), 500)
    assert len({(p.task, p.question) for p in problems}) == len(problems)
    assert 20 < len(problems) <= 36, "all that are not held out, once"


# --- judge and teacher -------------------------------------------------------------------------------------------


def test_a_judge_decides_where_rules_cannot(run: Run, tmp_path: Path, endpoint: Misbehaving) -> None:
    texts = {"Paris": 9, "Lyon": 2}
    mine = [
        {"question": "Capital?", "completion": f"<think>So.</think> <answer>{t}</answer>", "gold": None} for t in texts
    ]
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in mine))
    endpoint.reply = "It is alike. Score: 9"
    out = tmp_path / "out"
    overrides = [f"source={tmp_path}/mine.jsonl", "tasks=[]", f"judge.params={{url: '{endpoint.url}', model: grader}}"]
    run(out, *overrides)
    found = rows(out / "samples.jsonl")
    assert [(row["reason"], row["judge"]) for row in found] == [("kept", 0.9), ("kept", 0.9)]
    endpoint.reply = "Far from it. Score: 2"
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

SAMPLED = [
    "prompt={instruction: 'What is {question}?', system: Think., examples: [{question: 1 + 1, completion: two}]}",
    "problems=6", "sampling={per_problem: 3, prompts_per_batch: 2, max_new_tokens: 50, temperature: 0.7, top_p: 0.9}",
    "filters={duplicate: null, correct: null}",
]  # fmt: skip


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


def kills(recipe_file: Path, tmp_path: Path, shares: list[float]) -> None:
    recipe, whole = killed_recipe(recipe_file), tmp_path / "whole"
    done = die(recipe, whole, 0, "")
    assert done.returncode == 0, done.stderr
    calls = int(done.stdout)
    for number, share in enumerate(shares):
        out = tmp_path / f"killed-{number}"
        killed = die(recipe, out, max(1, int(share * calls)), ("before", "after")[number % 2])
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        resumed = die(recipe, out, 0, "")
        assert resumed.returncode == 0, resumed.stderr
        same_files(whole, out)


@pytest.mark.slow
def test_a_killed_run_ends_like_the_whole_one(recipe_file: Path, tmp_path: Path) -> None:
    kills(recipe_file, tmp_path, [0.5])


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_killed_at_many_moments(recipe_file: Path, tmp_path: Path) -> None:
    kills(recipe_file, tmp_path, [random.Random(3).random() for _ in range(8)])


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
    with pytest.raises(RunFolderError, match="changed since the run began"):
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
