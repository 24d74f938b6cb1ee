"""Problems chosen by their measured pass rate: which are left out, for how long, and that a resumed run leaves out the
same."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rethink.errors import RecipeError
from rethink.kinds.grpo.data import task_mix
from rethink.kinds.grpo.recipe import Recipe
from rethink.recipe.choosing import DifficultySection
from rethink.recipe.recipe_files import parse_recipe
from rethink.store.run_folder import RunFolder
from rethink.tasks.mix import TaskMix
from tests.runs.compare import same_run

Run = Callable[..., dict[str, Any]]
TEXT = """
name: t
steps: 4
tasks: [{{kind: jsonl, name: {rows}, held_out: {held_out}, difficulty: {{low: 0.25, high: 0.75, rest_epochs: 2}}}}]
reward: {{parts: [{{name: accuracy}}, {{name: format}}]}}
"""


def write_rows(folder: Path, number: int) -> dict[str, Path]:
    paths = {"rows": folder / "rows.jsonl", "held_out": folder / "held_out.jsonl"}
    for name, path in paths.items():
        lines = [json.dumps({"question": f"{name} {i}?", "answer": "1"}) + "\n" for i in range(number)]
        path.write_text("".join(lines))
    return paths


@pytest.fixture
def parsed(tmp_path: Path) -> Callable[..., Recipe]:
    """`parsed(*overrides)`: a recipe with 6 problems."""
    paths = write_rows(tmp_path, 6)
    return lambda *overrides: parse_recipe(TEXT.format(**paths), "test", overrides)


def epochs(mix: TaskMix, rates: Callable[[int, str], float], batches: int, size: int) -> list[list[str]]:
    """Ids by batch, where problem `id` of batch `b` has the pass rate `rates(b, id)`."""
    position, asked = mix.start, []
    for batch in range(batches):
        asked.append([p.id.rpartition("/")[2] for p in mix.problems(position, range(size), batch)])
        found = {f"rows/train/{name}": rates(batch, name) for name in asked[-1]}
        position = mix.after(position, size, batch, found)
    return asked


def test_problems_outside_the_bounds_rest(parsed: Callable[..., Recipe]) -> None:
    """0 is never solved and 1 always; each is asked again after two epochs without it."""
    mix = task_mix(parsed())
    rates = {"0": 0.0, "1": 1.0}
    asked = epochs(mix, lambda _, name: rates.get(name, 0.5), 26, 1)
    flat = [name for batch in asked for name in batch]
    first, second, third, fourth = flat[:6], flat[6:10], flat[10:14], flat[14:20]
    assert sorted(first) == sorted(fourth) == [str(i) for i in range(6)]
    assert sorted(second) == sorted(third) == ["2", "3", "4", "5"]


def test_all_problems_may_rest_at_once(parsed: Callable[..., Recipe]) -> None:
    mix = task_mix(parsed())
    asked = epochs(mix, lambda batch, name: 1.0, 3, 6)
    assert [sorted(batch) for batch in asked] == [[str(i) for i in range(6)]] * 3


@given(st.data())
def test_no_problem_comes_twice_in_an_epoch(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    paths = write_rows(tmp_path_factory.mktemp("rows"), 5)
    mix = task_mix(parse_recipe(TEXT.format(**paths), "test"))
    bounds = DifficultySection(low=0.25, high=0.75, rest_epochs=2)
    position, last = mix.start, dict[str, tuple[float, int]]()
    for step in range(6):
        size = data.draw(st.integers(1, 4))
        before = position
        names = [p.id for p in mix.problems(before, range(size), step)]
        assert names == [p.id for k in range(size) for p in mix.problems(before, range(k, k + 1), step)]
        rates = {name: data.draw(st.sampled_from([0.0, 0.5, 1.0])) for name in names}
        position = mix.after(before, size, step, rates)
        for name in names:
            epoch = position.measured[name].epoch
            if name in last:
                rate, earlier = last[name]
                assert epoch > earlier or names.count(name) > 1
                assert not bounds.leaves_out(rate, epoch - earlier) or names.count(name) > 1
            last[name] = (rates[name], epoch)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["difficulty={low: 0.8, high: 0.2}"], "low` 0.8 is above `high` 0.2"),
        (["difficulty={low: 0, high: 1}"], "leave out no problem"),
        (["difficulty.reward=acuracy"], "does not score the problems of `tasks.0`. Use `accuracy` or `format`"),
        (["kind=reasoning-gym", "name=chain_sum", "held_out=null"], "difficulty` is read for"),
    ],
)
def test_what_makes_no_sense_is_refused(parsed: Callable[..., Recipe], overrides: list[str], said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        parsed(*(f"tasks.0.{line}" for line in overrides))


def test_a_run_leaves_out_the_same_after_a_crash(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = write_rows(tmp_path, 6)
    (tmp_path / "parity_for_tests.py").write_text("def parity(problem, text):\n    return float(len(text) % 2)\n")
    options = (
        f"tasks=[{{kind: jsonl, name: {paths['rows']}, held_out: {paths['held_out']}, "
        "difficulty: {reward: parity, rest_epochs: 1}}]",
        'reward.parts=[{name: parity, function: "parity_for_tests:parity"}]',
        "rollout.group_size=2", "rollout.prompts_per_batch=2", "rollout.lag=1", "algorithm={}",
        "optimizer={learning_rate: 1.0e-3}", "checkpoint={every: 7, keep: 9}", "evaluation={problems: 0}", "steps=10",
    )  # fmt: skip
    run(tmp_path / "whole", *options)
    made = RunFolder.open(tmp_path / "whole").metrics()
    assert made[1]["problems/within"] + made[1]["problems/below"] + made[1]["problems/above"] == 0
    assert made[-1]["problems/below"] + made[-1]["problems/above"] > 0

    class Crash(Exception):
        """The run ends here."""

    save = RunFolder.save_checkpoint

    def crash(folder: RunFolder, step: int, *args: Any, **options: Any) -> Path:
        save(folder, step, *args, **options)
        if step == 7:
            raise Crash
        return folder.path

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "save_checkpoint", crash)
        with pytest.raises(Crash):
            run(tmp_path / "crashed", *options)
    run(tmp_path / "crashed", *options, resume=True)
    same_run(tmp_path / "whole", tmp_path / "crashed")
