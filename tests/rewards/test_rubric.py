"""The rubric: what each part says, how parts add up, and what happens when a checker breaks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rethink.errors import RecipeError, RewardFailure
from rethink.kinds.grpo.data import rubric_of, task_mix
from rethink.recipe.recipe_files import parse_recipe
from rethink.rewards.extract import extract_answer
from rethink.rewards.parts import build_part
from rethink.rewards.rubric import Limits, Rubric
from rethink.tasks.mix import TaskMix
from rethink.types import Completion, Problem, Prompt, RewardOutcome, Rollout

TEXT = "name: t\nsteps: 1\ntasks:\n  - {kind: reasoning-gym, name: chain_sum}\n"
PROMPT = Prompt("…<think>", (1,), "<think>")


OPEN: list[Rubric] = []


@pytest.fixture(autouse=True)
def _close() -> Iterator[None]:
    yield
    while OPEN:
        OPEN.pop().close()


def made(*overrides: str) -> tuple[Rubric, TaskMix, Problem]:
    recipe = parse_recipe(TEXT, "test", overrides)
    mix = task_mix(recipe)
    OPEN.append(rubric_of(recipe, mix))
    return OPEN[-1], mix, mix.train_batch(0, 1, 0)[0]


def completion(text: str) -> Completion:
    nothing = np.zeros(1, np.float32)
    return Completion(np.zeros(1, np.int32), text, nothing, nothing, "stop")


def test_accuracy_and_format_are_of_equal_weight() -> None:
    rubric, _, problem = made()
    cases = {
        f"so</think>\n<answer>{problem.answer}</answer>": (1, 1, 2),
        f"so</think>\n<answer>{problem.answer}</answer> That is it.": (1, 0, 1),
        "so</think>\n<answer>x</answer>": (0, 1, 1),
        f"{problem.answer}": (0, 0, 0),
        f"<answer>{problem.answer}</answer>": (0, 0, 0),  # the answer in the thoughts only
        "": (0, 0, 0),
    }
    for text, (accuracy, form, reward) in cases.items():
        outcomes, total = rubric.score(problem, PROMPT, completion(text))
        assert (outcomes["accuracy"].score, outcomes["format"].score, total) == (accuracy, form, reward), text


def test_weight_zero_only_records() -> None:
    rubric, _, problem = made("reward.parts=[{name: accuracy}, {name: format, weight: 0}]")
    outcomes, total = rubric.score(problem, PROMPT, completion("so</think><answer>no</answer>"))
    assert outcomes["format"].score == 1
    assert total == 0


def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, body: str) -> str:
    (tmp_path / f"{name}.py").write_text(body)
    monkeypatch.syspath_prepend(str(tmp_path))
    return f"{name}:score"


@pytest.mark.parametrize(
    ("body", "score", "failure"),
    [
        ("return len(text) / scale", 9.0, None),
        ("return None", None, None),
        ("return float('nan')", None, "not finite"),
        ("return 1 / 0", None, "ZeroDivisionError"),
        ("raise TimeoutError('slow')", None, "timeout"),
        ("return score(problem, text, scale)", None, "RecursionError"),
        ("return 'high'", None, "invalid: returned 'high'"),
    ],
)
def test_a_part_of_the_users_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str, score: float | None, failure: str | None
) -> None:
    name = f"own_reward_{abs(hash(body))}"
    function = own(tmp_path, monkeypatch, name, f"def score(problem, text, scale=1):\n    {body}\n")
    rubric, _, problem = made(f"reward.parts=[{{name: mine, function: '{function}', params: {{scale: 1}}}}]")
    outcomes, total = rubric.score(problem, PROMPT, completion("ab"))
    assert outcomes["mine"].score == score  # the text is the whole turn, its prefill too: 7 + 2 characters
    assert (outcomes["mine"].failure is None) == (failure is None)
    assert failure is None or failure in str(outcomes["mine"].failure)
    assert total == score


def test_a_checker_cannot_end_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    function = own(tmp_path, monkeypatch, "own_ctrl_c", "def score(problem, text):\n    raise KeyboardInterrupt\n")
    rubric, _, problem = made(f"reward.parts=[{{name: mine, function: '{function}'}}]")
    assert str(rubric.score(problem, PROMPT, completion(""))[0]["mine"].failure).startswith("crash")


def rollouts(outcomes: list[RewardOutcome], problem: Problem) -> list[Rollout]:
    return [
        Rollout(problem, PROMPT, completion("abc"), {"accuracy": o, "format": RewardOutcome(1.0)}, 1.0)
        for o in outcomes
    ]


def test_a_run_stops_when_too_many_rewards_fail() -> None:
    rubric, _, problem = made("reward.max_failure_share=0.5")
    fine, bad, abstains = RewardOutcome(1.0), RewardOutcome(None, "timeout: x"), RewardOutcome(None)
    rubric.check_failures(rollouts([fine, bad], problem))
    rubric.check_failures(rollouts([abstains] * 4, problem))
    with pytest.raises(RewardFailure, match=r"2 of 3 .* 2 × timeout: x.*--resume"):
        rubric.check_failures(rollouts([fine, bad, bad], problem))


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["reward.parts=[{name: accuracy, params: {x: 1}}]"], "takes no options"),
        (["reward.parts=[{name: mine, function: 'json:nothing'}]"], "nothing"),
        (["reward.parts=[{name: mine, function: 'no_such_module:f'}]"], "no_such_module"),
    ],
)
def test_parts_that_cannot_be_built(overrides: list[str], says: str) -> None:
    with pytest.raises(RecipeError, match=says):
        made(*overrides)


@pytest.mark.parametrize(
    ("rule", "text", "answer"),
    [
        ("answer-tag", "t</think> <answer> 7 </answer>", "7"),
        ("answer-tag", "t</think> 7", None),
        ("answer-tag", "t</think><answer>1</answer><answer>2</answer>", "2"),
        ("boxed", r"\boxed{1}</think> so \boxed{2}", "2"),
        ("boxed", r"\boxed{1}</think> so 2", None),
        ("last-number", "1</think> it is 2 and 3.", "3"),
        ("hash", "#### 1</think> so\n#### 2\n#### $3,000 \nor 4", "$3,000"),
        ("hash", r"#### 1</think> so \boxed{2} and 3", None),
        ("hash", "t</think> ####  ", None),
        ("text", "thought</think> all of this ", "all of this"),
        ("text", "thought</think>", None),
    ],
)
def test_where_answers_are_found(rule: Any, text: str, answer: str | None) -> None:
    assert extract_answer(text, "<think>", rule) == answer


SLOW = r"\sum_{n=1}^{9999}\frac{1}{n^{999}}"
"""An answer that sympy works on for minutes."""


@pytest.mark.parametrize(("gold", "score"), [(r"\sqrt{2}", 0.0), (r"\frac{", None)])
def test_whether_an_answer_is_judged_does_not_depend_on_the_answer(gold: str, score: float | None) -> None:
    """One that hangs is wrong, one that is missing too; where the gold cannot be read none is judged."""
    spec = {"name": "math", "weight": 1.0, "builtin": "math", "function": None, "params": {"answer": "text"}}
    accuracy = {"name": "accuracy", "weight": 1.0, "builtin": "accuracy", "function": None, "params": {}}
    rubric = {"answer": "boxed", "judges": {"t": {"kind": "math-verify"}}, "parts": [spec, accuracy]}
    parts = tuple(build_part(rubric, index) for index in range(2))
    OPEN.append(Rubric(rubric, parts, 1.0, Limits(seconds=0.7)))
    problem = Problem("p", "t", "?", gold)
    for text in (SLOW, "", "3", f"\\boxed{{{SLOW}}}", "\\boxed{3}", "\\boxed{x^2}"):
        outcomes, _ = OPEN[-1].score(problem, Prompt("", ()), completion(text))
        assert outcomes == dict.fromkeys(("math", "accuracy"), RewardOutcome(score)), text
