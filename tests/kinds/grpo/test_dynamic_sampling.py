"""Dynamic sampling: which further problems are asked, what is trained on, and that a run ends the same however it was
run."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rethink.errors import RecipeError, SignalFailure
from rethink.kinds.grpo.collect import RolloutBatch, Sources, assemble, collect
from rethink.kinds.grpo.data import rubric_of, task_mix
from rethink.kinds.grpo.estimate import estimate
from rethink.kinds.grpo.positions import Positions
from rethink.kinds.grpo.recipe import Recipe
from rethink.kinds.grpo.rounds import round_size, rounds_of, trained_places
from rethink.model.text.prompt import PromptRenderer
from rethink.model.tokenizer.tokenizer import Tokenizer
from rethink.plan.estimate import MachineRates
from rethink.recipe.identity import recipe_hash, resume_differences
from rethink.recipe.recipe_files import parse_recipe
from rethink.rewards.rubric import closing
from rethink.rollout.engines.scripted import ScriptedEngine
from rethink.store.run_folder import RunFolder
from tests.distributed.local_workers import local_workers
from tests.kinds.grpo.test_resume import die, kill_and_resume
from tests.runs.compare import same_run

Run = Callable[..., dict[str, Any]]
RIGHT, WRONG = "<answer>1</answer>", "<answer>2</answer>"
SILENT, MIXED = [WRONG, WRONG], [RIGHT, WRONG]
TEXT = """
name: t
steps: 4
tasks: [{{kind: jsonl, name: {rows}}}]
prompt: {{template: raw}}
reward: {{parts: [{{name: accuracy}}]}}
rollout: {{prompts_per_batch: 2, group_size: 2, max_new_tokens: 40, dynamic_sampling: {{max_rounds: 3}}}}
evaluation: {{problems: 0}}
"""


@given(st.lists(st.booleans(), max_size=60), st.integers(1, 8), st.integers(0, 12))
def test_rounds_follow_from_the_groups(outcomes: list[bool], wanted: int, least: int) -> None:
    """Sampled one by one until there are enough or no more; what is recorded says in which rounds that was."""
    groups: list[bool] = []
    rounds = 0
    while (size := round_size(groups, wanted, least)) and len(groups) + size <= len(outcomes):
        assert size >= wanted - groups.count(False)
        groups += outcomes[len(groups) : len(groups) + size]
        rounds += 1
    assert rounds_of(groups, wanted, least) == rounds
    places = trained_places(groups, wanted)
    assert list(places) == sorted(set(places))
    assert len(places) == min(wanted, len(groups))
    signal = [place for place, silent in enumerate(groups) if not silent]
    assert [place for place in places if not groups[place]] == signal[:wanted]
    if not round_size(groups, wanted, least):
        assert not any(groups[place] for place in places)


@pytest.fixture
def parsed(tmp_path: Path) -> Callable[..., Recipe]:
    """`parsed(*overrides)`: a recipe with 20 problems whose answer is 1."""
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"question": f"number {i}?", "answer": "1"}) + "\n" for i in range(20)))
    return lambda *overrides: parse_recipe(TEXT.format(rows=path), "test", overrides)


@pytest.fixture
def sampled(tmp_path: Path, small_tokenizer: Tokenizer) -> Callable[..., list[RolloutBatch]]:
    """`sampled(recipe, groups, batches)`: the completions of each group in the order of asking, cut into batches."""

    def go(recipe: Recipe, groups: list[list[str]], batches: int) -> list[RolloutBatch]:
        mix = task_mix(recipe)
        engine = ScriptedEngine([text for group in groups for text in group], small_tokenizer.encode)
        renderer = PromptRenderer(small_tokenizer, recipe.prompt, 200)
        sources = Sources(mix, renderer, engine, rubric_of(recipe, mix), ())
        folder = RunFolder.create(tmp_path / "run", recipe_yaml="", recipe_hash="h", environment={}, choices={})
        positions = Positions(recipe, mix, folder)
        made = []
        with closing(sources.rubric):
            for index in range(batches):
                engine.publish(None, index)
                made.append(collect(recipe, sources, folder, positions, index))
        for batch in made:
            read = assemble(recipe, batch.index, folder.read_rollouts(batch.index) or ())
            assert (read.trained, read.rounds, read.no_signal) == (batch.trained, batch.rounds, batch.no_signal)
            trained = [row["trained"] for row in folder.rollout_rows(batch.index, ["trained"])]
            assert trained == [place in batch.trained for place in range(len(batch.groups)) for _ in range(2)]
        return made

    return go


def asked(batches: list[RolloutBatch]) -> list[str]:
    return [group[0].problem.id for batch in batches for group in batch.groups]


def test_further_problems_take_the_place_of_groups_without_signal(
    parsed: Callable[..., Recipe], sampled: Callable[..., list[RolloutBatch]]
) -> None:
    recipe = parsed()
    groups = [SILENT, MIXED, SILENT, MIXED, MIXED, MIXED, SILENT, SILENT, MIXED, MIXED]
    batches = sampled(recipe, groups, 3)
    assert [batch.rounds for batch in batches] == [3, 1, 2]
    assert [len(batch.groups) for batch in batches] == [4, 2, 4]
    assert [batch.trained for batch in batches] == [(1, 3), (0, 1), (2, 3)]
    for batch in batches:
        assert [[r.advantage > 0 for r in group] for group in batch.trained_groups] == [[True, False]] * 2
    # Whatever a batch asks, the next one goes on behind it: no problem twice in an epoch.
    in_order = [p.id for p in task_mix(recipe).train_batch(0, 10, 0)]
    assert asked(batches) == in_order
    assert len(set(in_order)) == 10


def test_left_over_groups_with_signal_are_not_trained_on(
    parsed: Callable[..., Recipe], sampled: Callable[..., list[RolloutBatch]]
) -> None:
    batches = sampled(
        parsed("rollout.dynamic_sampling.prompts_per_round=3"), [MIXED] * 3 + [SILENT] * 3 + [MIXED] * 3, 2
    )
    assert [batch.trained for batch in batches] == [(0, 1), (3, 4)]
    assert [batch.rounds for batch in batches] == [1, 2]


def test_a_named_reward_must_differ(parsed: Callable[..., Recipe], sampled: Callable[..., list[RolloutBatch]]) -> None:
    """The reward differs by form alone in the first group, which then has no advantage."""
    form = "<think>a</think>" + WRONG
    both = ("reward.parts=[{name: accuracy}, {name: format}]", "rollout.prompts_per_batch=1")
    named = parsed(*both, "rollout.dynamic_sampling.reward=accuracy")
    (batch,) = sampled(named, [[form, WRONG], MIXED], 1)
    assert batch.trained == (1,)
    assert [r.advantage for r in batch.groups[0]] == [0.0, 0.0]
    assert assemble(parsed(*both), 0, batch.rollouts).trained == (0,)


def test_too_few_groups_stop_the_run_or_fill_the_batch(
    parsed: Callable[..., Recipe], sampled: Callable[..., list[RolloutBatch]]
) -> None:
    groups = [MIXED, SILENT, SILENT, SILENT]
    said = r"3 of the 4 groups \(75%\).*batch 0.*after 3 rounds it has 1 of the 2.*max_rounds.*when_short=fill"
    with pytest.raises(SignalFailure, match=said):
        sampled(parsed(), groups, 1)


def test_a_batch_that_is_filled_up(parsed: Callable[..., Recipe], sampled: Callable[..., list[RolloutBatch]]) -> None:
    recipe = parsed("rollout.dynamic_sampling.when_short=fill")
    (batch,) = sampled(recipe, [SILENT, MIXED, SILENT, SILENT], 1)
    assert (batch.trained, batch.rounds) == ((0, 1), 3)
    assert [batch.no_signal[place] for place in batch.trained] == [True, False]


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["max_rounds=1"], "no further problems would be sampled"),
        (["reward=acuracy"], "is no part of `reward.parts`. Use `accuracy`"),
        (["max_rounds=0"], "above 0"),
        (["when_short=skip"], "`stop` or `fill`"),
    ],
)
def test_what_makes_no_sense_is_refused(parsed: Callable[..., Recipe], overrides: list[str], said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        parsed(*(f"rollout.dynamic_sampling.{line}" for line in overrides))


def test_a_named_reward_must_always_apply(parsed: Callable[..., Recipe]) -> None:
    parts = "reward.parts=[{name: accuracy, from_step: 2}, {name: format}]"
    with pytest.raises(RecipeError, match="does not apply at some steps"):
        parsed(parts, "rollout.dynamic_sampling.reward=accuracy")


def test_which_runs_are_the_same(parsed: Callable[..., Recipe]) -> None:
    off, on = parsed("rollout.dynamic_sampling=null"), parsed()
    assert recipe_hash(off) != recipe_hash(on)
    more = parsed("rollout.dynamic_sampling.max_rounds=9", "rollout.dynamic_sampling.when_short=fill")
    assert resume_differences(on, more) == []
    assert resume_differences(on, parsed("rollout.dynamic_sampling.prompts_per_round=5"))
    assert resume_differences(on, off)


def test_the_plan_counts_the_rounds(parsed: Callable[..., Recipe]) -> None:
    shape, rates = parsed("model.shape={hidden_size: 64, layers: 2, heads: 2, kv_heads: 1, head_dim: 32, "
        "intermediate_size: 128, vocab_size: 1000, context: 512}").model.shape, MachineRates(1e12, 1e12)  # fmt: skip
    assert shape is not None
    off, on, wide = (
        estimate(parsed(f"rollout.dynamic_sampling={value}"), shape, rates)
        for value in ("null", "{max_rounds: 3}", "{max_rounds: 3, prompts_per_round: 4}")
    )
    assert (off.most_rounds, on.most_rounds, wide.most_rounds) == (1, 3, 6)
    assert on.generated_tokens == 3 * off.generated_tokens
    assert off.total_seconds == on.total_seconds == off.total_seconds_most
    assert on.total_seconds_most is not None
    assert on.total_seconds_most > on.total_seconds
    assert wide.memory.keys_and_values_most == 2 * on.memory.keys_and_values_most


DYNAMIC = (
    "rollout.dynamic_sampling={when_short: fill, max_rounds: 4}",
    'reward.parts=[{name: early, function: "early_for_tests:early"}]',
    "algorithm={mini_batches: 2, aggregation: token}",
    "optimizer={learning_rate: 1.0e-3}",
    "checkpoint={every: 3, keep: 9}",
    "evaluation={problems: 0}",
)
EARLY = '''\
def early(problem, text):
    """1 for half of all texts."""
    return float(len(text) % 2)
'''


@pytest.fixture
def recipe_file(recipe_file: Path, tiny_folder: Callable[..., Path]) -> Path:
    """On a model that native kernels compute where there are any, and with a reward that is often equal in a group."""
    exact = tiny_folder("llama", "exact", head_dim=64, hidden_size=64)
    recipe_file.write_text(recipe_file.read_text().replace(str(exact.parent / "llama"), str(exact)))
    (recipe_file.parent / "early_for_tests.py").write_text(EARLY)  # a module is imported once in a process
    return recipe_file


def rows(out: Path) -> list[dict[str, Any]]:
    return RunFolder.open(out).metrics()[1:]


class Crash(Exception):
    """The run ends here."""


@pytest.mark.parametrize("lag", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_a_run_ends_the_same_after_a_crash_and_on_workers(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lag: int
) -> None:
    options = (*DYNAMIC, f"rollout.lag={lag}")
    run(tmp_path / "whole", *options)
    made = rows(tmp_path / "whole")
    assert {row["rollout/rounds"] for row in made} > {1}
    assert all(row["rollout/groups"] >= 4 for row in made)
    tokens = [row["rollout/tokens"] for row in made[::2]]
    assert made[-1]["tokens/total"] == sum(tokens)
    save = RunFolder.save_checkpoint

    def crash(folder: RunFolder, step: int, *args: Any, **options: Any) -> Path:
        path = save(folder, step, *args, **options)
        if step == 3:
            raise Crash
        return path

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "save_checkpoint", crash)
        with pytest.raises(Crash):
            run(tmp_path / "crashed", *options)
    crashed = RunFolder.open(tmp_path / "crashed")
    crashed.rollouts_path(0).unlink()  # what was trained on before the checkpoint is not read again
    run(tmp_path / "crashed", *options, resume=True)
    whole = RunFolder.open(tmp_path / "whole")
    whole.rollouts_path(0).unlink()
    same_run(tmp_path / "whole", tmp_path / "crashed")
    with local_workers():
        run(tmp_path / "workers", *options)
    weights = [(tmp_path / name / "model/model.safetensors").read_bytes() for name in ("whole", "workers")]
    assert weights[0] == weights[1]


def test_groups_with_signal_throughout_make_the_run_without_dynamic_sampling(run: Run, tmp_path: Path) -> None:
    letters = ('reward.parts=[{name: letters, function: "rewards_for_tests:letters"}]',)
    run(tmp_path / "off", *DYNAMIC[2:], *letters, "rollout.group_size=6")
    run(tmp_path / "on", *DYNAMIC[2:], *letters, "rollout.group_size=6", "rollout.dynamic_sampling={}")
    assert {row["rollout/rounds"] for row in rows(tmp_path / "on")} == {1}
    weights = [(tmp_path / name / "model/model.safetensors").read_bytes() for name in ("off", "on")]
    assert weights[0] == weights[1]


@pytest.mark.slow
def test_a_run_that_stops_goes_on_with_more_rounds(run: Run, tmp_path: Path) -> None:
    stop, more = ("rollout.dynamic_sampling={max_rounds: 2}",), ("rollout.dynamic_sampling={max_rounds: 40}",)
    with pytest.raises(SignalFailure):
        run(tmp_path / "out", *DYNAMIC[1:], *stop)
    run(tmp_path / "out", *DYNAMIC[1:], *more, resume=True)
    run(tmp_path / "whole", *DYNAMIC[1:], *more)
    same_run(tmp_path / "whole", tmp_path / "out")


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("lag", [0, 1])
def test_killed_at_many_random_points(recipe_file: Path, tmp_path: Path, lag: int) -> None:
    dynamic = tmp_path / "dynamic.yaml"
    sampling = f"rollout: {{lag: {lag}, dynamic_sampling: {{max_rounds: 4, when_short: fill}}, "
    text = recipe_file.read_text().replace("rollout: {", sampling).replace("epochs: 2, ", "")
    dynamic.write_text(
        text.replace("letters", "early")
        .replace("rewards_for_tests", "early_for_tests")
        .replace("- {name: accuracy}", "")
    )
    whole = tmp_path / "whole"
    calls = int(die(dynamic, whole, 0, "").stdout)
    kill_and_resume(dynamic, whole, random.Random(lag).sample(range(1, calls), 10), tmp_path)
