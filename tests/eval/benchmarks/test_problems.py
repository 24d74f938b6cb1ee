"""The registry, and problems of every benchmark from small data of the schema that its hub data set has."""

from __future__ import annotations

import base64
import json
import pickle
import sys
import types
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from rethink.errors import TaskError, UsageError
from rethink.eval.benchmarks.catalogue import benchmarks, find_benchmark
from rethink.eval.benchmarks.problems import load_problems, source_name
from rethink.eval.benchmarks.readers import LETTERS
from tests.paths import SHARED_DATA

TESTS = [{"input": "1\n", "output": "2\n", "testtype": "stdin"}]
PRIVATE = base64.b64encode(zlib.compress(pickle.dumps(json.dumps(TESTS)))).decode()
GPQA = {
    "Question": "Which?",
    "Correct Answer": "right",
    "Incorrect Answer 1": "w1",
    "Incorrect Answer 2": "w2",
    "Incorrect Answer 3": "w3",
    "Record ID": "rec1",
    "High-level domain": "Physics",
}
# benchmark -> a row as the hub has it, and the gold that is read from it
ROWS: dict[str, tuple[dict[str, Any], str | None]] = {
    "gsm8k": ({"question": "2+2?", "answer": "2+2=<<2+2=4>>4\n#### 4"}, "4"),
    "math500": ({"problem": "x?", "answer": "\\frac{1}{2}", "unique_id": "u/1.json"}, "\\frac{1}{2}"),
    "aime24": ({"id": 60, "problem": "x?", "solution": "…", "answer": "204", "year": "2024"}, "204"),
    "aime25": ({"problem": "x?", "answer": "70", "id": "0"}, "70"),
    "amc23": ({"id": 0, "question": "x?", "answer": 27.0}, "27.0"),
    "gpqa-diamond": (GPQA, None),
    "mmlu": ({"question": "x?", "subject": "anatomy", "choices": ["a", "b", "c", "d"], "answer": 2}, "C"),
    "mmlu-pro": (
        {"question_id": 70, "question": "x?", "options": list("abcdefghij"), "answer": "I", "answer_index": 8,
         "category": "law"}, "I"),
    "mmlu-redux": ({"question": "x?", "choices": ["a", "b", "c", "d"], "answer": 1, "error_type": "ok"}, "B"),
    "drop": (
        {"section_id": "s", "query_id": "q1", "passage": "He ran 5 yards.", "question": "How far?",
         "answers_spans": {"spans": ["5 yards", "5"], "types": ["span", "number"]}}, "5 yards | 5"),
    "ifeval": (
        {"key": 1000, "prompt": "Write.", "instruction_id_list": ["punctuation:no_comma"],
         "kwargs": [{"num_words": None, "relation": None}]}, None),
    "simpleqa": ({"metadata": "{}", "problem": "Who?", "answer": "Ada Lovelace"}, "Ada Lovelace"),
    "humaneval": (
        {"task_id": "HumanEval/0", "prompt": "def f():\n", "canonical_solution": " pass", "test": "def check(c): ...",
         "entry_point": "f"}, None),
    "mbpp": (
        {"task_id": 2, "prompt": "Add.", "test_imports": ["import math"], "test_list": ["assert f(1) == 2"]},
        None),
    "livecodebench": (
        {"question_id": "1873_A", "question_content": "Add one.", "contest_date": "2024-09-01T00:00:00",
         "public_test_cases": json.dumps(TESTS), "private_test_cases": PRIVATE, "metadata": "{}", "difficulty": "easy"},
        None),
    "cmath": ({"question": "几个？", "golden": "9", "grade": 1}, "9"),
    "mgsm": ({"question": "How many?", "answer": "18", "config": "de"}, "18"),
    "c-eval": (
        {"id": 0, "question": "哪个？", "A": "甲", "B": "乙", "C": "丙", "D": "丁", "answer": "B", "explanation": "",
         "config": "logic"}, "B"),
    "clue-wsc": (
        {"idx": 7, "text": "小明说他累了。", "label": 0, "target": {"span1_text": "小明", "span2_text": "他",
         "span1_index": 0, "span2_index": 3}}, "是"),
}  # fmt: skip


def write(path: Path, rows: Sequence[object]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def test_every_benchmark_has_a_row_here() -> None:
    assert {name for name in benchmarks() if not name.startswith("mgsm-")} == set(ROWS)


@pytest.mark.parametrize("name", ROWS)
def test_hub_schema(name: str, tmp_path: Path) -> None:
    row, gold = ROWS[name]
    benchmark = find_benchmark(name)
    (problem,) = load_problems(benchmark, write(tmp_path / "rows.jsonl", [row]), None)
    if name == "gpqa-diamond":
        gold = problem.answer
        assert f"{gold}) right" in problem.question
        assert sorted(line[3:] for line in problem.question.splitlines()[2:]) == ["right", "w1", "w2", "w3"]
    assert problem.answer == gold
    assert problem.task == name
    assert problem.question.strip()


@pytest.mark.parametrize("name", benchmarks())
def test_every_benchmark_names_its_data_prompt_grader_and_sampling(name: str) -> None:
    benchmark = benchmarks()[name]
    assert benchmark.data is not None
    assert "/" in benchmark.data.id
    assert benchmark.data.revision == "main" or len(benchmark.data.revision) == 40
    assert "{question}" in benchmark.prompt
    assert benchmark.grader.name
    assert benchmark.k == {"aime24": 64, "aime25": 64, "amc23": 64, "gpqa-diamond": 64, "math500": 16,
                           "livecodebench": 8}.get(name, 1)  # fmt: skip


def test_the_default_prompt_of_mathematics() -> None:
    for name in ("gsm8k", "math500", "aime24", "aime25", "amc23"):
        asked = "{question}\nPlease reason step by step, and put your final answer within \\boxed{}."
        assert benchmarks()[name].prompt == asked


@pytest.mark.parametrize(
    ("name", "near"),
    [("gsmk8", "gsm8k"), ("mth500", "math500"), ("IF_Evall", "ifeval"), ("chain_sums", "chain_sum")],
)
def test_unknown_names_get_the_nearest(name: str, near: str) -> None:
    with pytest.raises(UsageError, match=f"did you mean .*{near}"):
        find_benchmark(name)


def test_names_are_forgiving() -> None:
    assert find_benchmark("GPQA_diamond").name == "gpqa-diamond"
    assert find_benchmark("mgsm_zh").language == "zh"


@pytest.mark.parametrize(
    ("name", "row", "message"),
    [
        ("gsm8k", {"answer": "1"}, r"line 2, .*no key `question`.*it has answer"),
        ("gsm8k", {"question": "", "answer": "1"}, r"line 2, .*`question` must be a text that is not empty"),
        ("gsm8k", {"question": "q"}, r"line 2, .*no key `answer`"),
        ("gsm8k", [1], r"line 2, .*it is list, not an object"),
        ("mmlu", {"question": "q", "choices": ["a"], "answer": 0}, "`choices`.*2 to 10 texts"),
        ("mmlu", {"question": "q", "choices": ["a", "b"], "answer": 2}, "letter up to B"),
        ("mmlu", {"question": "q", "choices": ["a", "b"], "answer": True}, "letter up to B"),
        ("drop", {"passage": "p", "question": "q", "answers_spans": {"spans": []}}, "answers_spans"),
        ("ifeval", {"prompt": "p", "instruction_id_list": ["a:b"], "kwargs": [{}]}, "unknown instruction `a:b`"),
        ("ifeval", {"prompt": "p", "instruction_id_list": ["punctuation:no_comma"], "kwargs": []}, "same length"),
        ("clue-wsc", {"text": "t", "target": {"span1_text": "a", "span2_text": "b"}, "label": 3}, "`label`"),
        ("clue-wsc", {"text": "t", "label": 0}, "`target`"),
        ("mbpp", {"prompt": "p", "test_list": "assert"}, "`test_list` must be a list of texts"),
        ("livecodebench", {"question_content": "q", "public_test_cases": "["}, "`public_test_cases` is not JSON"),
        ("livecodebench", {"question_content": "q", "public_test_cases": "[]", "private_test_cases": "!"}, "unpacked"),
    ],
)
def test_wrong_schema_says_which_row_and_key(name: str, row: object, message: str, tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", [ROWS[name][0], row])
    with pytest.raises(TaskError, match=message):
        load_problems(find_benchmark(name), path, None)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    benchmark = find_benchmark("gsm8k")
    with pytest.raises(TaskError, match="cannot be read"):
        load_problems(benchmark, tmp_path / "none.jsonl", None)
    (tmp_path / "broken.jsonl").write_text('{"question": "q", "answer": "1"}\n{"question"\n')
    with pytest.raises(TaskError, match="line 2, is not JSON"):
        load_problems(benchmark, tmp_path / "broken.jsonl", None)
    with pytest.raises(TaskError, match="holds no problem"):
        load_problems(benchmark, write(tmp_path / "empty.jsonl", []), None)
    with pytest.raises(TaskError, match="does not exist"):
        find_benchmark(str(tmp_path / "mine.jsonl"))


def test_an_unreadable_gold_is_none_and_ids_are_unique(tmp_path: Path) -> None:
    rows = [{"question": f"q{i}", "answer": None, "id": "same"} for i in range(3)]
    problems = load_problems(find_benchmark("gsm8k"), write(tmp_path / "rows.jsonl", rows), None)
    assert [problem.answer for problem in problems] == [None] * 3
    assert len({problem.id for problem in problems}) == 3


def test_rows_that_do_not_belong_are_left_out(tmp_path: Path) -> None:
    wrong = ROWS["mmlu-redux"][0] | {"error_type": "wrong_groundtruth"}
    path = write(tmp_path / "redux.jsonl", [wrong, ROWS["mmlu-redux"][0]])
    assert len(load_problems(find_benchmark("mmlu-redux"), path, None)) == 1
    # A row of a set without the reviewers' column is a row like any other.
    plain = {key: value for key, value in ROWS["mmlu-redux"][0].items() if key != "error_type"}
    assert len(load_problems(find_benchmark("mmlu-redux"), write(tmp_path / "plain.jsonl", [plain]), None)) == 1
    old = ROWS["livecodebench"][0] | {"contest_date": "2023-05-01T00:00:00"}
    path = write(tmp_path / "lcb.jsonl", [old, ROWS["livecodebench"][0]])
    (problem,) = load_problems(find_benchmark("livecodebench"), path, None)
    assert problem.metadata["tests"] == TESTS + TESTS


def test_a_pickle_is_read_and_never_run(tmp_path: Path) -> None:
    class Attack:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "ran",))

    packed = base64.b64encode(zlib.compress(pickle.dumps([Attack(), json.dumps(TESTS)]))).decode()
    row = ROWS["livecodebench"][0] | {"private_test_cases": packed}
    with pytest.raises(TaskError, match="private_test_cases"):
        load_problems(find_benchmark("livecodebench"), write(tmp_path / "rows.jsonl", [row]), None)
    assert not (tmp_path / "ran").exists()


def test_gpqa_spreads_the_right_letter(tmp_path: Path) -> None:
    rows = [GPQA | {"Question": f"Which {i}?", "Record ID": str(i)} for i in range(60)]
    path = write(tmp_path / "rows.jsonl", rows)
    problems = load_problems(find_benchmark("gpqa-diamond"), path, None)
    first = [problem.answer for problem in problems]
    assert set(first) == set(LETTERS[:4])
    # The key is where the right option stands. For an order that is its own inverse "which option stands first" says
    # the same, so one question does not do: of the 24 orders 14 are not.
    assert all(f"\n{problem.answer}) right" in problem.question for problem in problems)
    assert len({problem.question.partition("\n\n")[2] for problem in problems}) > 10
    assert first == [problem.answer for problem in load_problems(find_benchmark("gpqa-diamond"), path, None)]


def test_the_hub_is_asked_for_the_named_revision(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def load_dataset(name: str, config: str | None, **options: Any) -> list[dict[str, Any]]:
        asked.append((name, config, options))
        return [ROWS["mmlu-redux"][0]]

    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load_dataset))
    problems = load_problems(find_benchmark("mmlu-redux"), None, None)
    assert len(problems) == len(asked) == 57
    assert asked[0] == ("edinburgh-dawg/mmlu-redux-2.0", "abstract_algebra", {"split": "test", "revision": "main"})
    assert problems[0].metadata["group"] == "abstract_algebra"


def test_files_of_the_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked = []

    def download(name: str, file: str, **options: Any) -> str:
        asked.append((name, file, options["revision"]))
        path = tmp_path / file
        path.write_text("Wie viele?\t18\n\nUnd nun?\t1,000\n", "utf-8")
        return str(path)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    problems = load_problems(find_benchmark("mgsm-de"), None, None)
    assert [(p.question, p.answer) for p in problems] == [("Wie viele?", "18"), ("Und nun?", "1,000")]
    assert asked == [("juletxara/mgsm", "mgsm_de.tsv", "f52417ca77bd71e9888ddc29f92587660725d2b4")]
    assert len(load_problems(find_benchmark("mgsm"), None, None)) == 22


def test_a_hub_that_cannot_be_reached_names_the_local_way(monkeypatch: pytest.MonkeyPatch) -> None:
    def load_dataset(*_: Any, **__: Any) -> None:
        raise ConnectionError("no route")

    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load_dataset))
    with pytest.raises(TaskError, match=r"no route.*--data gsm8k=PATH"):
        load_problems(find_benchmark("gsm8k"), None, None)


def test_a_reasoning_gym_task(tmp_path: Path) -> None:
    benchmark = find_benchmark("chain_sum")
    problems = load_problems(benchmark, None, 5)
    assert len(problems) == 5
    assert problems == load_problems(benchmark, None, 7)[:5]
    verdict = benchmark.grader.judge(problems[0], f"<answer>{problems[0].answer}</answer>")
    assert verdict.score == 1.0
    assert benchmark.grader.judge(problems[0], "hm").score == 0.0
    assert source_name(benchmark, None) == "reasoning-gym chain_sum"
    with pytest.raises(TaskError, match="makes its problems itself"):
        load_problems(benchmark, write(tmp_path / "rows.jsonl", [{"question": "q"}]), None)


LOCAL = {
    "gsm8k": "gsm8k_test",
    "math500": "math500",
    "aime24": "aime24",
    "amc23": "amc23",
    "ifeval": "ifeval",
    "mmlu": "mmlu_sample570",
    "mgsm-zh": "mgsm_zh",
    "mgsm-en": "mgsm_en",
    "cmath": "cmath_dev",
    "humaneval": "humaneval",
    "mbpp": "mbpp_sanitized",
}


@pytest.mark.parametrize("name", LOCAL)
def test_local_sets(name: str) -> None:
    path = SHARED_DATA / "sets" / f"{LOCAL[name]}.jsonl"
    if not path.is_file():
        pytest.skip(f"{path} is not there")
    problems = load_problems(find_benchmark(name), path, None)
    assert len(problems) == len(path.read_text("utf-8").splitlines())
    golds_elsewhere = name in ("ifeval", "humaneval", "mbpp")
    assert all((problem.answer is None) == golds_elsewhere for problem in problems)
