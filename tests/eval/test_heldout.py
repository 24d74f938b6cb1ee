"""Held-out evaluation on a scripted engine: shares, intervals, abstentions, kept samples."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from rethink.eval.heldout import Evaluation, evaluate
from rethink.eval.statistics.estimates import wilson_interval
from rethink.kinds.grpo.data import rubric_of, task_mix
from rethink.model.text.prompt import PromptRenderer
from rethink.model.tokenizer.tokenizer import Tokenizer
from rethink.recipe.recipe_files import parse_recipe
from rethink.rollout.engines.scripted import Scripted, ScriptedEngine
from rethink.types import Problem, SamplingParams

Evaluate = Callable[[list[Scripted | str]], Evaluation]


@pytest.fixture
def run(tmp_path: Path, small_tokenizer: Tokenizer) -> Evaluate:
    """Evaluates four problems with golds 1, 2, 3 and one that cannot be read."""
    (tmp_path / "p.jsonl").write_text('{"question": "q", "answer": "1"}\n')
    text = f"name: t\nsteps: 1\ntasks: [{{kind: jsonl, name: {tmp_path / 'p.jsonl'}}}]\nprompt: {{template: raw}}\n"
    recipe = parse_recipe(text, "test")
    mix = task_mix(recipe)
    problems = [Problem(f"p{i}", "p", f"question {i}", gold) for i, gold in enumerate(["1", "2", "3", None])]

    def go(lines: list[Scripted | str]) -> Evaluation:
        engine = ScriptedEngine(lines, small_tokenizer.encode)
        renderer = PromptRenderer(small_tokenizer, recipe.prompt, 100)
        return evaluate(engine, renderer, rubric_of(recipe, mix), problems, SamplingParams(), [0, 1, 2, 3])

    return go


def test_shares(run: Evaluate) -> None:
    good = "<think>t</think><answer>1</answer>"
    result = run([good, "<answer>2</answer>", Scripted("no", finish_reason="length"), "<answer>9</answer>"])
    # The problem without a readable gold is judged for format, not for accuracy.
    assert result.accuracy == pytest.approx(2 / 3)
    assert (result.accuracy_low, result.accuracy_high) == wilson_interval(2, 3)
    assert result.format == 0.25
    assert result.truncated == 0.25
    assert (result.n, result.judged) == (4, 3)
    assert result.first(1) == (1.0, 1)
    assert result.first(4) == (pytest.approx(2 / 3), 3)
    assert [row["right"] for row in result.rows()] == [1.0, 1.0, 0.0, None]
    assert result.metrics()["eval/accuracy"] == result.accuracy
