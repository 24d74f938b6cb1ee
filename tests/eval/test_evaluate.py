"""A whole evaluation on scripted completions: numbers, files, resuming, refusals."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rethink.errors import EngineFailure, ModelError, RunFolderError, TaskError, UsageError
from rethink.eval.benchmark import PAPER_MAX_TOKENS
from rethink.eval.evaluate import slug_of
from rethink.eval.sample_files import SampleStore
from rethink.eval.statistics.estimates import bootstrap_interval, wilson_interval
from rethink.model.tokenizer.tokenizer import Tokenizer
from rethink.rollout.engines.scripted import Scripted
from rethink.store.rollout_files import read_rows
from rethink.types import GenerationRequest

Evaluate = Callable[..., Any]
KEYS = ["pass@1", "pass@1_ci", "cons@k", "n", "k", "truncated", "length_mean", "tokens_per_s"]


@pytest.fixture
def number(small_tokenizer: Tokenizer) -> Callable[[GenerationRequest], int]:
    """Which of the four problems a request asks."""

    def of(request: GenerationRequest) -> int:
        text = small_tokenizer.decode(request.prompt_ids)
        return next(i for i in range(4) if f"What is {i} plus" in text)

    return of


def results(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "results.json").read_text("utf-8")))


def test_numbers_and_files(loader: Any, evaluate: Evaluate, number: Any, tmp_path: Path) -> None:
    def script(request: GenerationRequest, sample: int) -> Scripted | str:
        i = number(request)
        if i == 0:
            return "It is \\boxed{0}"  # always right
        if i == 1:
            return ["\\boxed{1}", "\\boxed{1.0}", "\\boxed{7}", "I cannot find it."][
                sample
            ]  # half right; the majority is
        if i == 2:
            return ["\\boxed{5}", "\\boxed{2}", "\\boxed{5}", "\\boxed{2}"][sample]  # a tie: the first answer wins
        return Scripted("Now we look at each of them and", finish_reason="length")  # cut off

    load, _ = loader(script)
    (measured,) = evaluate(load, k=4)
    row = results(tmp_path / "out")["gsm8k"]
    assert list(row) == KEYS
    assert row["pass@1"] == pytest.approx((1 + 0.5 + 0.5 + 0) / 4)
    assert row["pass@1_ci"] == pytest.approx(bootstrap_interval([1, 0.5, 0.5, 0]))
    assert row["cons@k"] == pytest.approx(2 / 4)
    assert (row["n"], row["k"], row["truncated"]) == (4, 4, 0.25)
    assert row["length_mean"] > 0
    assert row["tokens_per_s"] > 0
    details = json.loads((tmp_path / "out" / "details.json").read_text("utf-8"))["gsm8k"]
    assert details["unparsed"] == pytest.approx(5 / 16)
    assert details["pass@k"] == pytest.approx({"1": 0.5, "2": (1 + 5 / 6 + 5 / 6) / 4, "4": 0.75})
    assert measured.results[0].row() == row
    samples = [r for path in sorted((tmp_path / "out/samples/gsm8k").glob("*.parquet")) for r in read_rows(path)]
    assert len(samples) == 16
    assert {s["problem_id"] for s in samples} == {"p0", "p1", "p2", "p3"}
    one = next(s for s in samples if s["problem_id"] == "p1" and s["sample"] == 1)
    assert (one["text"], one["answer"], one["score"], one["gold"]) == ("\\boxed{1.0}", "1.0", 1.0, "1")
    assert len(one["token_ids"]) == one["tokens"] > 0
    assert "| gsm8k | Pass@1 | 50.0 |" in (tmp_path / "out" / "model-card.md").read_text("utf-8")


def test_wilson_for_one_sample(loader: Any, evaluate: Evaluate, number: Any, tmp_path: Path) -> None:
    load, _ = loader(lambda request, _: f"\\boxed{{{min(number(request), 2)}}}")
    evaluate(load, k=1)
    row = results(tmp_path / "out")["gsm8k"]
    assert row["pass@1"] == 0.75
    assert row["pass@1_ci"] == pytest.approx(wilson_interval(3, 4))
    assert row["cons@k"] == 0.75


def test_sampling_is_the_papers_within_the_context(loader: Any, evaluate: Evaluate, tmp_path: Path) -> None:
    load, engines = loader(lambda *_: "\\boxed{1}")
    (measured,) = evaluate(load, limit=2)
    params = engines[0].requests[0].params
    longest = max(len(request.prompt_ids) for request in engines[0].requests)
    assert (params.temperature, params.top_p, params.max_new_tokens) == (0.6, 0.95, 4096 - longest)
    assert measured.plans[0].limited_by == "context"
    assert PAPER_MAX_TOKENS == 32_768
    assert params.stop_token_ids
    (measured,) = evaluate(load, temperature=0.0, top_p=1.0, max_new_tokens=9, out=tmp_path / "other")
    params = engines[1].requests[0].params
    assert (params.temperature, params.top_p, params.max_new_tokens) == (0.0, 1.0, 9)
    assert measured.plans[0].limited_by == "asked"


def test_a_killed_evaluation_goes_on(
    loader: Any, evaluate: Evaluate, number: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seeds, not order, decide the samples, so what is resumed equals what was never stopped."""

    def script(request: GenerationRequest, sample: int) -> str:
        return f"\\boxed{{{number(request) + request.seeds[sample] % 2}}}"

    load, _ = loader(script)
    evaluate(load, k=3, out=tmp_path / "whole")
    died: list[int] = []

    def dies(request: GenerationRequest, sample: int) -> Scripted | str:
        died.append(1)
        return Scripted("", failure="the machine burns") if len(died) == 6 else script(request, sample)

    with pytest.raises(EngineFailure, match="burns"):
        evaluate(loader(dies)[0], k=3)
    kept = SampleStore(tmp_path / "out" / "samples" / "gsm8k").read()
    assert len(kept) == 5
    again, engines = loader(script)
    evaluate(again, k=3)
    assert sum(request.n for request in engines[0].requests) == 7
    whole, resumed = results(tmp_path / "whole")["gsm8k"], results(tmp_path / "out")["gsm8k"]
    del whole["tokens_per_s"], resumed["tokens_per_s"]
    assert whole == resumed
    evaluate(again, k=3)  # finished: nothing is asked any more
    assert engines[1].requests == []


def test_k_and_limit_may_grow_and_shrink(loader: Any, evaluate: Evaluate, tmp_path: Path) -> None:
    load, engines = loader(lambda *_: "\\boxed{1}")
    evaluate(load, limit=2, k=2, max_new_tokens=50)
    evaluate(load, limit=4, k=3, max_new_tokens=50)
    assert sum(request.n for request in engines[1].requests) == 12 - 4
    evaluate(load, limit=1, k=1, max_new_tokens=50)
    assert engines[2].requests == []
    assert results(tmp_path / "out")["gsm8k"]["n"] == 1


def test_the_limit_of_a_begun_evaluation_is_kept(loader: Any, evaluate: Evaluate, questions: Path) -> None:
    load, _ = loader(lambda *_: "\\boxed{1}")
    (first,) = evaluate(load, limit=2)
    rows = questions.read_text("utf-8")
    questions.write_text(json.dumps({"id": "s", "question": "2?", "answer": "2"}) + "\n" + rows, "utf-8")
    (second,) = evaluate(load, limit=1)  # a shorter prompt would leave more room
    assert second.plans[0].params == first.plans[0].params


def test_another_request_for_the_same_folder_is_refused(
    loader: Any, evaluate: Evaluate, questions: Path, tmp_path: Path
) -> None:
    load, _ = loader(lambda *_: "\\boxed{1}")
    evaluate(load)
    for changed in ({"temperature": 0.0}, {"seed": 1}, {"prompting": "direct"}, {"max_new_tokens": 5}):
        with pytest.raises(RunFolderError, match=r"give another --out|Give another --out"):
            evaluate(load, **changed)
    with pytest.raises(RunFolderError, match=r"holds the evaluation of .*model m.*not of .*model other"):
        evaluate(load, models=["other"])
    questions.write_text(questions.read_text("utf-8").replace("What is 1", "What is 9"), "utf-8")
    with pytest.raises(TaskError, match="problem p1 of gsm8k answer another prompt"):
        evaluate(load)
    (tmp_path / "out" / "results.json").write_text("[]")
    with pytest.raises(RunFolderError, match="not an object"):
        evaluate(load, limit=1)


def test_a_grader_that_raises_is_data(loader: Any, evaluate: Evaluate, tmp_path: Path, monkeypatch: Any) -> None:
    def slow(*_: Any) -> float:
        raise TimeoutError

    monkeypatch.setattr("rethink.eval.grading.graders.worker_score", slow)
    load, _ = loader(lambda *_: "\\boxed{x}")
    evaluate(load)
    samples = SampleStore(tmp_path / "out" / "samples" / "gsm8k").read()
    assert {(s.score, s.failure) for s in samples} == {(0.0, "timeout")}
    assert json.loads((tmp_path / "out/details.json").read_text("utf-8"))["gsm8k"]["grader_failures"] == 4


def test_unreadable_golds_are_left_out(loader: Any, evaluate: Evaluate, tmp_path: Path) -> None:
    path = tmp_path / "golds.jsonl"
    rows = [{"question": "What is 1 plus?", "answer": "1"}, {"question": "What is 2 plus?", "answer": None}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    load, _ = loader(lambda *_: "\\boxed{1}")
    evaluate(load, data=path)
    row = results(tmp_path / "out")["gsm8k"]
    assert (row["pass@1"], row["n"]) == (1.0, 1)


def test_several_models_and_modes(loader: Any, evaluate: Evaluate, tmp_path: Path) -> None:
    load, _ = loader(lambda *_: "\\boxed{1}")
    measured = evaluate(load, models=["a/x", "b/x"], prompting="all")
    folders = {m.folder.relative_to(tmp_path / "out").as_posix() for m in measured}
    modes = ("direct", "few-shot", "few-shot-cot", "zero-shot-cot", "r1")
    assert folders == {f"{model}/{mode}" for model in ("x", "x-2") for mode in modes}
    assert all((m.folder / "results.json").is_file() for m in measured)


def test_a_comparison_leaves_out_what_a_benchmark_has_not(loader: Any, evaluate: Evaluate, tmp_path: Path) -> None:
    path = tmp_path / "ifeval.jsonl"
    row = {"key": 1, "prompt": "Write.", "instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]}
    path.write_text(json.dumps(row) + "\n", "utf-8")
    load, _ = loader(lambda *_: "No commas at all")
    measured = evaluate(load, bench=["ifeval"], data=path, prompting="all")
    assert [m.mode for m in measured if m.results] == ["r1"]
    row = results(tmp_path / "out" / "r1")["ifeval"]
    assert (row["pass@1"], row["cons@k"]) == (1.0, None)
    details = json.loads((tmp_path / "out/r1/details.json").read_text("utf-8"))["ifeval"]
    assert (details["prompt_strict"], details["instruction_loose"]) == (1.0, 1.0)
    with pytest.raises(UsageError, match="cannot be asked in the mode direct"):
        evaluate(load, bench=["ifeval"], data=path, prompting="direct", out=tmp_path / "two")


def test_refusals_before_a_model_is_loaded(evaluate: Evaluate, questions: Path) -> None:
    def load(*_: Any) -> Any:
        raise AssertionError("a model was loaded")

    with pytest.raises(UsageError, match="twice"):
        evaluate(load, bench=["gsm8k", "gsm8k"])
    with pytest.raises(TaskError, match="cannot be read"):
        evaluate(load, data=questions.with_name("no.jsonl"))


def test_too_many_tokens(loader: Any, evaluate: Evaluate) -> None:
    load, _ = loader(lambda *_: "")
    with pytest.raises(UsageError, match=r"--max-new-tokens 1000000 does not fit.*4096.*give at most"):
        evaluate(load, max_new_tokens=1_000_000)


def test_a_base_model_is_told_what_works(
    small_tokenizer: Tokenizer, loader: Any, evaluate: Evaluate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(small_tokenizer, "chat_template", None)
    load, _ = loader(lambda *_: "<think> a </think> <answer>1</answer>")
    with pytest.raises(ModelError, match=r"no chat template.*--prompting r1"):
        evaluate(load)
    (measured,) = evaluate(load, prompting="r1")
    assert measured.plans[0].params.stop_strings == ("\nUser:",)  # a base model would go on for the user
    assert measured.results[0].pass_1 == 0.25


def test_a_damaged_sample_file_is_named(loader: Any, evaluate: Evaluate, tmp_path: Path) -> None:
    load, _ = loader(lambda *_: "\\boxed{1}")
    evaluate(load)
    part = tmp_path / "out" / "samples" / "gsm8k" / "part-000000.parquet"
    part.write_bytes(part.read_bytes()[:100])
    with pytest.raises(RunFolderError, match="part-000000"):
        evaluate(load)


def test_changed_golds_and_graders_judge_stored_completions_anew(
    loader: Any, evaluate: Evaluate, questions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is generated again; the verdicts are those of a fresh evaluation; and it is said how many."""
    load, engines = loader(lambda *_: "\\boxed{1}")
    (first,) = evaluate(load, k=2)
    assert results(tmp_path / "out")["gsm8k"]["pass@1"] == 0.25
    assert first.judged_anew == {"gsm8k": 0}
    rows = [json.loads(line) for line in questions.read_text("utf-8").splitlines()]
    rows[3]["answer"] = "1"
    questions.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    (again,) = evaluate(load, k=2)
    assert again.judged_anew == {"gsm8k": 2}
    assert results(tmp_path / "out")["gsm8k"]["pass@1"] == 0.5
    assert not engines[1].requests
    assert len(SampleStore(tmp_path / "out" / "samples" / "gsm8k").read()) == 8
    evaluate(load, k=2, out=tmp_path / "fresh")
    for name in ("pass@1", "cons@k", "n", "k"):
        assert results(tmp_path / "out")["gsm8k"][name] == results(tmp_path / "fresh")["gsm8k"][name]
    monkeypatch.setattr("rethink.eval.grading.grader_version._code_version", lambda: "another")
    (changed,) = evaluate(load, k=2)
    assert changed.judged_anew == {"gsm8k": 8}
    (settled,) = evaluate(load, k=2)
    assert settled.judged_anew == {"gsm8k": 0}


def test_a_changed_result_is_noticed(loader: Any, evaluate: Evaluate, tmp_path: Path) -> None:
    load, _ = loader(lambda *_: "\\boxed{1}")
    evaluate(load)
    path = tmp_path / "out" / "results.json"
    path.write_text(path.read_text().replace("0.25", "0.75", 1))
    with pytest.raises(RunFolderError, match=r"results\.json` is damaged.*nothing is generated"):
        evaluate(load)
    path.unlink()
    evaluate(load)
    assert results(tmp_path / "out")["gsm8k"]["pass@1"] == 0.25


def test_slugs() -> None:
    assert slug_of("Qwen/Qwen2.5-0.5B") == "Qwen2.5-0.5B"
    assert slug_of("runs/a/model/") == "model"
    assert slug_of("x y?.gguf") == "x-y"
    assert slug_of("..") == "model"
