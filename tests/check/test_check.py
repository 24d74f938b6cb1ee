"""`rethink check` on a sound recipe, on recipes broken on purpose, and on those that ship."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rethink.check import recipe_check as check_run
from rethink.check.found import Report
from rethink.check.recipe_check import check
from rethink.check.stage_check import checkables
from rethink.cli.check import show
from rethink.recipe.recipe_files import load_recipe
from rethink.rollout.engines.scripted import Scripted, ScriptedEngine

MODULE = '''\
import time

def load(answers=5):
    return [{"question": f"Count the birds of picture {i} once.", "answer": str(i * 7 % answers)} for i in range(90)]

def load_loose():
    """Its checker takes any answer that holds the gold."""
    return load(), lambda problem, answer: float(problem.answer in answer)

def load_unfair():
    """Its checker never gives full marks."""
    return load(), lambda problem, answer: 0.5 * (answer == problem.answer)

def load_long():
    return [{"question": "word " * 1200 + str(i), "answer": str(i % 5)} for i in range(60)]

def load_yes():
    return [{"question": f"Is {i} a number, or not?", "answer": "1"} for i in range(60)]

def by_length(problem, text):
    return len(text) / 100

def breaks(problem, text):
    raise KeyError("no such rule")

def slow(problem, text):
    time.sleep(0.04 * ("I count" in text))  # what was sampled: the clock is on these alone
    return float("1" in text)
'''

RECIPE = """\
name: sound
steps: 8
threads: 1
model: {{path: {model}, dtype: float32}}
prompt:
  template: chat
  examples:
    - {{question: "Count the dogs.", completion: "<think>Two and one.</think><answer>3</answer>"}}
tasks:
  - {{kind: python, name: "tasks_for_check:load"}}
rollout: {{prompts_per_batch: 4, group_size: 5, max_new_tokens: 60}}
evaluation: {{problems: 4}}
"""


def turn(answer: object) -> str:
    return f"<think>I count.</think><answer>{answer}</answer>"


def five_answers(request: Any, sample: int) -> str:
    return turn(sample % 5)


@pytest.fixture
def checked(tmp_path: Path, tiny_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Report]:
    """`checked(*overrides, script=…)`: the report of the sound recipe with other values."""
    (tmp_path / "tasks_for_check.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(__import__("sys").modules, "tasks_for_check", raising=False)
    model = tiny_folder("llama", max_position_embeddings=1024)
    path = tmp_path / "sound.yaml"
    path.write_text(RECIPE.format(model=model))

    def go(*overrides: str, script: Any = five_answers, prompts: int = 6) -> Report:
        def engine(_: Any, checkpoint: Any) -> ScriptedEngine:
            end = min(checkpoint.tokenizer.end_of_turn_ids)
            return ScriptedEngine(script, checkpoint.tokenizer.encode, end_token=end, context=1024)

        (one,) = checkables(load_recipe(path, overrides))
        return check(one.recipe, one.how, prompts=prompts, engine_factory=engine)

    return go


def test_a_sound_recipe_has_no_problem(checked: Callable[..., Report]) -> None:
    report = checked()
    assert report.ok, report.findings
    assert not report.findings
    signal = report.sections["signal"]
    assert signal["prompts_solved_sometimes"] == 1.0
    assert signal["no_signal"] == 0.0
    assert signal["solved"] == pytest.approx(0.2)
    assert report.sections["gold"]["full_marks"] == report.sections["gold"]["problems"]
    assert report.sections["cheats"]["right_answer"]["reward"] == 2.0
    assert json.loads(json.dumps(report.to_dict(), allow_nan=False))["ok"] is True


BROKEN: dict[str, tuple[list[str], Any, str]] = {
    "gold the checker does not accept": (["tasks.0.name=tasks_for_check:load_unfair"], five_answers, "gold-not-right"),
    "gold under another key": (["tasks.0.answer_format=boxed"], five_answers, "gold-unreadable"),
    "a checker that looks for the gold anywhere": (
        ["tasks.0.name=tasks_for_check:load_loose"],
        five_answers,
        "cheat-rewarded",
    ),
    "a reward for length": (
        ['reward.parts=[{name: long, function: "tasks_for_check:by_length"}]'],
        five_answers,
        "cheat-rewarded",
    ),
    "an answer rule that the model does not know": (
        ["reward.answer=answer-tag"],
        lambda request, sample: "the result is \\boxed{3}",
        "answer-not-found",
    ),
    "an example in another form": (["reward.answer=boxed"], five_answers, "example-without-answer"),
    "a task that is never solved": ([], lambda request, sample: turn(77), "too-hard"),
    "a task that is always solved": (["tasks.0.params.answers=1"], lambda request, sample: turn(0), "too-easy"),
    "groups without signal": ([], lambda request, sample: turn(3), "no-signal"),
    "a limit that cuts": (
        ["rollout.max_new_tokens=8"],
        lambda request, sample: Scripted(turn(sample)),
        "truncated",
    ),
    "prompts over the context": (["tasks.0.name=tasks_for_check:load_long"], five_answers, "prompt-over-context"),
    "a limit over the context": (["rollout.max_new_tokens=2000"], five_answers, "prompts-refused"),
    "a reward that raises": (
        ['reward.parts=[{name: accuracy}, {name: mine, function: "tasks_for_check:breaks"}]'],
        five_answers,
        "reward-fails",
    ),
    "a slow reward": (
        ['reward.parts=[{name: accuracy}, {name: mine, function: "tasks_for_check:slow"}]'],
        five_answers,
        "slow-reward",
    ),
    "one answer for all": (["tasks.0.name=tasks_for_check:load_yes"], five_answers, "guess-rewarded"),
    "a task that is not there": (["tasks.0.name=tasks_for_check:lost"], five_answers, "tasks-refused"),
    "a model that is not there": (["model.path=./no-such-model"], five_answers, "model-refused"),
    "a reward that is not there": (
        ['reward.parts=[{name: mine, function: "tasks_for_check:lost"}]'],
        five_answers,
        "reward-refused",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_recipe_is_named(name: str, checked: Callable[..., Report]) -> None:
    overrides, script, defect = BROKEN[name]
    report = checked(*overrides, script=script)
    problems = {finding.defect: finding.message for finding in report.findings if finding.level == "problem"}
    assert defect in problems, report.findings
    assert not report.ok


def test_memory_beyond_the_machine_is_named(checked: Callable[..., Report], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check_run, "free_memory", lambda device: 1000)
    assert "memory" in {finding.defect for finding in checked(prompts=0).findings if finding.level == "problem"}


def test_without_prompts_nothing_is_sampled(checked: Callable[..., Report]) -> None:
    def never(request: Any, sample: int) -> str:
        raise AssertionError("sampled")

    report = checked(script=never, prompts=0)
    assert "signal" not in report.sections
    assert report.ok


def test_the_table_shows_every_section_and_finding(checked: Callable[..., Report]) -> None:
    import io

    from rich.console import Console

    report = checked(script=lambda request, sample: turn(77))
    out = io.StringIO()
    show(report, Console(file=out, width=200))
    text = out.getvalue()
    for section in report.sections:
        assert section in text
    for finding in report.findings:
        assert finding.message[:60] in text
    assert "every number, 0 to 999" in text


def test_the_command_ends_with_1_where_there_is_a_problem(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from rethink.cli.main import main

    path = tmp_path / "bad.yaml"
    path.write_text("name: bad\nsteps: 3\nmodel: {path: ./nowhere}\ntasks: [{kind: reasoning-gym, name: chain_sum}]\n")
    assert main(["check", str(path), "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert [f["defect"] for f in found["findings"]] == ["model-refused"]
    path.write_text("name: bad\nsteps: 3\nrollout: {group_size: 1}\ntasks: [{kind: reasoning-gym, name: chain_sum}]\n")
    assert main(["check", str(path)]) == 2
    assert "group_size" in capsys.readouterr().err
