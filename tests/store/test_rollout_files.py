"""Rollouts survive the disk exactly: ids, log-probabilities bit for bit, outcomes, odd text."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rethink.errors import RunFolderError
from rethink.store import rollout_files
from rethink.store.run_folder import RunFolder
from rethink.types import Completion, Problem, Prompt, RewardOutcome, Rollout, Turn


def rollout(
    name: str = "p/1",
    ids: tuple[int, ...] = (5, 6, 7),
    text: str = "<think>1</think>",
    outcomes: dict[str, RewardOutcome] | None = None,
    logprobs: np.ndarray | None = None,
) -> Rollout:
    values = np.linspace(-3, 0, len(ids), dtype=np.float32) if logprobs is None else logprobs
    return Rollout(
        problem=Problem(id=name, task="sum", question="1 + 1?", answer=None, metadata={"terms": [1, 1]}),
        prompt=Prompt(text=f"User: {name}", token_ids=(1, 2), prefill="<think>"),
        completion=Completion(
            token_ids=np.array(ids, dtype=np.int32),
            text=text,
            logprobs=values,
            sampled_logprobs=-values,
            finish_reason="length",
            seconds=0.1,
        ),
        outcomes={"accuracy": RewardOutcome(1.0), "format": RewardOutcome(None, "timeout")}
        if outcomes is None
        else outcomes,
        reward=0.1 + 0.2,
        advantage=-1 / 3,
    )


def assert_same(left: Rollout, right: Rollout) -> None:
    assert left.problem == right.problem
    assert left.prompt == right.prompt
    assert left.outcomes == right.outcomes
    assert list(left.outcomes) == list(right.outcomes)
    assert (left.reward, left.advantage) == (right.reward, right.advantage)
    assert left.completion.text == right.completion.text
    assert left.completion.finish_reason == right.completion.finish_reason
    assert left.completion.seconds == right.completion.seconds
    for name in ("token_ids", "logprobs", "sampled_logprobs"):
        one, two = getattr(left.completion, name), getattr(right.completion, name)
        assert one.dtype == two.dtype
        assert one.tobytes() == two.tobytes()


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder.create(tmp_path, recipe_yaml="", recipe_hash="h", environment={}, choices={})


float32 = st.floats(width=32)
rollouts = st.builds(
    lambda ids, text, values, name: rollout(name, tuple(ids), text, logprobs=np.resize(np.float32(values), len(ids))),
    st.lists(st.integers(0, 2**31 - 1), max_size=9),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
    st.lists(float32, min_size=1, max_size=9),
    st.sampled_from(["a", "b"]),
)


@settings(max_examples=40, deadline=None)
@given(batch=st.lists(rollouts, max_size=5))
def test_round_trip_is_exact(tmp_path_factory: pytest.TempPathFactory, batch: list[Rollout]) -> None:
    path = tmp_path_factory.mktemp("r") / "b.parquet"
    rollout_files.write_rollouts(path, 1, batch, {"step": 3}, None)
    back = rollout_files.read_rollouts(path)
    assert len(back) == len(batch)
    for one, two in zip(batch, back, strict=True):
        assert_same(one, two)


def test_several_turns_and_an_advantage_a_token(folder: RunFolder) -> None:
    one, advantages = rollout(), np.array([0.5, -1 / 3, 0.0])
    sampled = replace(one.completion, version=8)
    several = replace(one, completion=sampled, advantage=advantages, turns=(Turn(0, 1, 7), Turn(2, 3)))
    folder.write_rollouts(1, [several, one])
    back = folder.read_rollouts(1)
    assert back is not None
    assert isinstance(back[0].advantage, np.ndarray)
    assert back[0].advantage.tobytes() == advantages.tobytes()
    assert (back[0].turns, back[1].turns) == (several.turns, ())
    assert (back[0].completion.version, back[1].completion.version) == (8, None)
    assert back[1].advantage == one.advantage
    assert folder.rollout_rows(1, ["advantage"])[0] == {"advantage": float(advantages.mean())}


def test_files_of_earlier_versions_are_read(folder: RunFolder) -> None:
    folder.write_rollouts(1, [rollout()])
    path = folder.rollouts_path(1)
    table = pq.read_table(path).drop_columns(["version", "turns", "token_advantages"])
    rollout_files.write_table(path, table)
    back = folder.read_rollouts(1)
    assert back is not None
    assert_same(back[0], rollout())
    rollout_files.write_table(path, table.drop_columns(["reward"]))
    with pytest.raises(RunFolderError, match="no column `reward`"):
        folder.read_rollouts(1)


def test_odd_outcomes_and_rewards(folder: RunFolder) -> None:
    odd = rollout(
        outcomes={"z": RewardOutcome(None), "a.b": RewardOutcome(None, "exception: </script>"), "": RewardOutcome(-0.5)}
    )
    none = Rollout(odd.problem, odd.prompt, odd.completion, {}, None, 0.0)
    folder.write_rollouts(1, [odd, none], {"step": 1})
    back = folder.read_rollouts(1)
    assert back is not None
    assert_same(odd, back[0])
    assert_same(none, back[1])


def test_places_batches_and_extra_columns(folder: RunFolder) -> None:
    batch = [rollout("a"), rollout("a"), rollout("b"), rollout("b"), rollout("b")]
    folder.write_rollouts(2, batch, {"step": 7, "weight": [0.5, 1.0, 1.5, 2.0, 2.5]})
    rows = folder.rollout_rows(2)
    assert tuple(rows[0])[: len(rollout_files.COLUMNS)] == rollout_files.COLUMNS
    assert [(row["prompt_index"], row["sample_index"]) for row in rows] == [(0, 0), (0, 1), (1, 0), (1, 1), (1, 2)]
    assert {(row["batch"], row["step"]) for row in rows} == {(2, 7)}
    assert [row["weight"] for row in rows] == [0.5, 1.0, 1.5, 2.0, 2.5]
    assert folder.rollout_rows(2, ["reward"]) == [{"reward": 0.1 + 0.2}] * 5


def test_the_first_rows_alone(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rollout_files, "ROW_GROUP", 2)
    folder.write_rollouts(1, [rollout(str(index)) for index in range(7)])
    for first in (0, 1, 2, 3, 7, 9):
        rows = folder.rollout_rows(1, ["problem_id", "tokens"], first=first)
        assert rows == [{"problem_id": str(index), "tokens": 3} for index in range(min(first, 7))]


def test_group_size_separates_equal_prompts(folder: RunFolder) -> None:
    folder.write_rollouts(1, [rollout("a")] * 4, group_size=2)
    rows = folder.rollout_rows(1)
    assert [(row["prompt_index"], row["sample_index"]) for row in rows] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert rows[0]["step"] is None


def test_batches_are_listed_and_counted(folder: RunFolder) -> None:
    assert folder.batches() == []
    assert folder.read_rollouts(1) is None
    for batch in (1, 2, 3):
        folder.write_rollouts(batch, [rollout()] * batch)
    assert folder.batches() == [1, 2, 3]
    assert folder.count_rollouts(3) == 3


def test_a_lone_surrogate_costs_one_character(folder: RunFolder) -> None:
    folder.write_rollouts(1, [rollout(text="a\ud800b")])
    back = folder.read_rollouts(1)
    assert back is not None
    assert back[0].completion.text == "a?b"


def test_a_damaged_file_is_named(folder: RunFolder) -> None:
    folder.write_rollouts(1, [rollout()])
    path = folder.path / "rollouts" / "batch-000001.parquet"
    path.write_bytes(path.read_bytes()[:-9])
    for read in (folder.read_rollouts, folder.count_rollouts, folder.rollout_rows):
        with pytest.raises(RunFolderError, match=r"batch-000001\.parquet"):
            read(1)


def test_samples(folder: RunFolder) -> None:
    rows = [{"problem_id": "a", "accuracy": 1.0, "extra": {"x": 1}}, {"problem_id": "b", "accuracy": None, "tokens": 3}]
    folder.write_samples("step-000010", rows)
    folder.write_samples("step-000000", rows[:1])
    assert folder.samples() == ["step-000000", "step-000010"]
    assert folder.read_samples("none") is None
    back = folder.read_samples("step-000010")
    assert back is not None
    assert back[0] == {"problem_id": "a", "accuracy": 1.0, "extra": '{"x": 1}', "tokens": None}
    assert back[1]["tokens"] == 3
