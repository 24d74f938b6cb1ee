"""Preference data: every schema, what cannot be used, and what is refused with its place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rethink.errors import TaskError
from rethink.tasks.preferences import Preference, read_file, read_hub, read_preference

USER = {"role": "user", "content": "Why?"}
SYSTEM = {"role": "system", "content": "Be brief."}
SAYS = ({"role": "assistant", "content": "A"}, {"role": "assistant", "content": "B"})
HH = "\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: Why?\n\nAssistant: "
TURNS = ({"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}, USER)


@pytest.mark.parametrize(
    ("row", "prompt"),
    [
        ({"prompt": "Why?", "chosen": "A", "rejected": "B"}, (USER,)),
        ({"prompt": [USER], "chosen": [SAYS[0]], "rejected": [SAYS[1]]}, (USER,)),
        ({"prompt": "Why?", "chosen": [USER, SAYS[0]], "rejected": [USER, SAYS[1]]}, (USER,)),
        ({"chosen": [USER, SAYS[0]], "rejected": [USER, SAYS[1]]}, (USER,)),
        ({"chosen": [*TURNS, SAYS[0]], "rejected": [*TURNS, SAYS[1]]}, TURNS),
        ({"chosen": HH + "A", "rejected": HH + "B"}, TURNS),
        ({"prompt": HH, "chosen": "A", "rejected": "B"}, TURNS),
        (
            {
                "chosen": [{"from": "human", "value": "Why?"}, {"from": "gpt", "value": "A"}],
                "rejected": [{"from": "human", "value": "Why?"}, {"from": "gpt", "value": "B"}],
            },
            (USER,),
        ),
    ],
)
def test_pairs(row: dict[str, Any], prompt: tuple[dict[str, str], ...]) -> None:
    found = read_preference(row, "pairwise", "here")
    assert (found.prompt, found.responses, found.unusable, found.rule) == (prompt, ("A", "B"), None, None)
    again = read_preference(json.loads(json.dumps(found.row())), "pairwise", "here")
    assert again == found


@pytest.mark.parametrize(
    ("row", "prompt"),
    [
        ({"question": "Why?", "preferred": "A", "dispreferred": "B"}, (USER,)),
        ({"instruction": "Why?", "chosen_response": "A", "rejected_response": "B"}, (USER,)),
        ({"instruction": "Why", "input": "?", "chosen": "A", "rejected": "B"}, ({**USER, "content": "Why\n?"},)),
        ({"question": "Why?", "response_j": "A", "response_k": "B"}, (USER,)),
        ({"input": {"messages": [USER]}, "preferred_output": [SAYS[0]], "non_preferred_output": [SAYS[1]]}, (USER,)),
        ({"conversations": [{"from": "human", "value": "Why?"}], "chosen": {"from": "gpt", "value": "A"},
          "rejected": {"from": "gpt", "value": "B"}}, (USER,)),
        ({"system": "Be brief.", "question": "Why?", "chosen": "A", "rejected": "B"}, (SYSTEM, USER)),
        ({"system": "", "prompt": "Why?", "chosen": "A", "rejected": "B"}, (USER,)),
        ({"system": "Other.", "prompt": [SYSTEM, USER], "chosen": "A", "rejected": "B"}, (SYSTEM, USER)),
    ],
)  # fmt: skip
def test_pairs_as_known_data_sets_spell_them(row: dict[str, Any], prompt: tuple[dict[str, str], ...]) -> None:
    found = read_preference(row, "pairwise", "here")
    assert (found.prompt, found.responses) == (prompt, ("A", "B"))


def test_a_pair_is_two_labels() -> None:
    pair = read_preference({"prompt": "Why?", "chosen": "A", "rejected": "B"}, "either", "here")
    assert [(p.responses, p.label) for p in pair.apart()] == [(("A",), 1), (("B",), 0)]
    single = read_preference({"prompt": "Why?", "completion": "A", "label": True}, "either", "here")
    assert single.apart() == (single,)
    tied = read_preference({"prompt": "Why?", "chosen": "A", "rejected": "A"}, "either", "here")
    assert tied.apart() == (tied,)
    with pytest.raises(TaskError, match="either examples need `label`"):
        read_preference({"prompt": "Why?"}, "either", "here")


@pytest.mark.parametrize(
    ("row", "label"),
    [
        ({"prompt": "Why?", "response": "A", "label": 1}, 1),
        ({"prompt": "Why?", "completion": "A", "label": False}, 0),
        ({"prompt": [USER], "completion": [SAYS[0]], "label": "unsafe"}, 0),
        ({"messages": [USER, SAYS[0]], "label": "Harmless"}, 1),
    ],
)
def test_labels(row: dict[str, Any], label: int) -> None:
    found = read_preference(row, "pointwise", "here")
    assert (found.prompt, found.responses, found.label) == ((USER,), ("A",), label)
    assert read_preference(found.row(), "pointwise", "here") == found


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"prompt": "Why?", "chosen": "A", "rejected": "A"}, "equal"),
        ({"prompt": "Why?", "chosen": "A", "rejected": "B", "score_chosen": 5, "score_rejected": 5}, "tie"),
        ({"prompt": "Why?", "chosen": "A", "rejected": "B", "score_chosen": 4, "score_rejected": 5}, "reversed"),
        ({"prompt": "Why?", "chosen": "A", "rejected": "B", "score_chosen": 6, "score_rejected": 5}, None),
        ({"chosen": HH + "A", "rejected": HH.replace("Hello", "Bye") + "B"}, "prompts-differ"),
    ],
)
def test_what_a_row_itself_says_against_it(row: dict[str, Any], reason: str | None) -> None:
    assert read_preference(row, "pairwise", "here").unusable == reason


@pytest.mark.parametrize(
    ("row", "objective", "said"),
    [
        ({"prompt": "q", "chosen": "A", "rejected": "B", "weight": 0}, "pairwise", "has `weight: 0`"),
        ({"prompt": "q", "chosen": [{**SAYS[0], "weight": 0}], "rejected": "B"}, "pairwise", "`chosen`: .*`weight`"),
        ({"prompt": "q", "chosen": "A", "rejected": [{**SAYS[1], "loss": 0}]}, "pairwise", "`rejected`: .*`loss`"),
        ({"messages": [USER, {**SAYS[0], "loss_mask": 0}], "label": 1}, "pointwise", "`messages`: .*`loss_mask`"),
        ({"prompt": "q", "response": "A", "label": 0, "train": False}, "pointwise", "has `train: false`"),
    ],
)  # fmt: skip
def test_what_is_not_to_be_trained_on_is_refused(row: dict[str, Any], objective: Any, said: str) -> None:
    with pytest.raises(TaskError, match=f"file, line 3.*{said}"):
        read_preference(row, objective, "file, line 3")


def test_synthetic_pairs_carry_their_rule() -> None:
    row = Preference((USER,), ("A", "B"), rule="right-over-wrong").row()
    assert row["synthetic"] is True
    assert read_preference(row, "pairwise", "").rule == "right-over-wrong"
    assert read_preference({"prompt": "x", "chosen": "A", "rejected": "B", "synthetic": True}, "pairwise", "").rule


@pytest.mark.parametrize(
    ("row", "objective", "said"),
    [
        ([1], "pairwise", "is list, not an object"),
        ({"prompt": "x", "better": "a"}, "pairwise", "pairwise examples need `chosen` and `rejected`"),
        ({"messages": [USER, SAYS[0]], "label": 1}, "pairwise", "Responses with a label are for objectives of labels"),
        ({"prompt": "x", "chosen": "a", "rejected": "b"}, "pointwise", "Pairs are for objectives of pairs"),
        ({"chosen": "a", "rejected": "b"}, "pairwise", "no transcript that begins with `Human:`"),
        ({"prompt": "x", "chosen": 3, "rejected": "b"}, "pairwise", "`chosen` must be a text or a list of messages"),
        ({"prompt": "x", "chosen": [], "rejected": "b"}, "pairwise", "`chosen` must be a text or a list of messages"),
        ({"prompt": "x", "chosen": [USER], "rejected": "b"}, "pairwise", "must end with a turn of the assistant"),
        ({"chosen": [SAYS[0]], "rejected": [SAYS[1]]}, "pairwise", "holds a response and no prompt"),
        ({"prompt": " ", "chosen": "a", "rejected": "b"}, "pairwise", "`prompt` is empty"),
        ({"prompt": "x", "chosen": [{"role": "assistant"}], "rejected": "b"}, "pairwise", "a message is"),
        (
            {"prompt": "x", "chosen": "a", "rejected": "b", "score_chosen": "5", "score_rejected": 4},
            "pairwise",
            "must be numbers",
        ),
        ({"prompt": "x", "response": "a", "label": "maybe"}, "pointwise", "`label` is 'maybe'"),
        ({"prompt": "x", "response": "a", "label": 0.5}, "pointwise", "allowed are true"),
        ({"prompt": "x", "label": 1}, "pointwise", "needs `messages`, or `prompt` and `response`"),
        ({"messages": [USER], "label": 1}, "pointwise", "must be the assistant's response"),
    ],
)
def test_rows_of_no_schema_are_refused(row: Any, objective: Any, said: str) -> None:
    with pytest.raises(TaskError, match=r"^file, line 3") as error:
        read_preference(row, objective, "file, line 3")
    assert said in str(error.value)


def test_files(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text('{"prompt": "x", "chosen": "a\\u2028b", "rejected": "c"}\n\n{"prompt": "y"\n')
    with pytest.raises(TaskError, match="line 3, is not JSON"):
        read_file(path, "pairwise")
    path.write_text('{"prompt": "x", "chosen": "a\\u2028b", "rejected": "c"}\n\n')
    assert read_file(path, "pairwise")[0].where.endswith("line 1")
    with pytest.raises(TaskError, match="cannot be read"):
        read_file(tmp_path / "none.jsonl", "pairwise")


def test_parquet(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = tmp_path / "p.parquet"
    rows = [{"chosen": [USER, SAYS[0]], "rejected": [USER, SAYS[1]], "score_chosen": 2.0, "score_rejected": 1.0}] * 3
    pq.write_table(pa.Table.from_pylist(rows), path)
    found = read_file(path, "pairwise")
    assert [(p.prompt, p.responses) for p in found] == [((USER,), ("A", "B"))] * 3
    assert found[2].where.endswith("row 3")
    path.write_bytes(b"PAR1 not")
    for bad in (path, tmp_path / "none.parquet"):
        with pytest.raises(TaskError, match=r"cannot be read.*data\.N\.path"):
            read_file(bad, "pairwise")


def test_a_hub_data_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Read by the hub's own library, from a folder that it takes for a data set."""
    rows = [{"chosen": HH + "A", "rejected": HH + "B"}, {"chosen": HH + "A", "rejected": HH + "C"}]
    folder = tmp_path / "set"
    folder.mkdir()
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    found = read_hub(str(folder), None, "train", "pairwise")
    assert [p.responses for p in found] == [("A", "B"), ("A", "C")]
    assert found[0].prompt == TURNS
