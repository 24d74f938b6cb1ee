"""Filters: each hostile or faulty text gets the reason that it should, whatever else it holds, and nothing hangs."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rethink.analysis.readability import (
    has_code,
    longest_paragraph,
    readability,
    repetition_share,
    stray_tags,
)
from rethink.kinds.samples.filters import ADVICE, FILTERS, advice_for, first_reason, too_few
from rethink.kinds.samples.recipe import FilterSection
from rethink.kinds.samples.records import Sample, from_row, sample_id, turns_before
from rethink.recipe.schema import Example, PromptSection

GOOD = "<think>Two and three make five.</think> <answer>5</answer>"
ALL = FilterSection(max_tokens=100)
NONE = FilterSection(
    correct=None, format=None, language=None, truncated=False, tags=False, code=False, repetition=None,
    paragraph_words=None, duplicate=None,
)  # fmt: skip


def sample(completion: str = GOOD, **changes: object) -> Sample:
    made = Sample(
        id=sample_id("sum", "2 + 3?", 0), task="sum", question="2 + 3?", gold="5",
        messages=[{"role": "user", "content": "2 + 3?"}], completion=completion, tokens=20, finish_reason="stop",
        source={"model": "m", "stage": "s", "seed": 1, "index": 0},
        rewards={"accuracy": 1.0, "format": 1.0, "language": 1.0},
    )  # fmt: skip
    return replace(made, **changes)  # type: ignore[arg-type]


CASES = {
    "kept": sample(),
    "no-reply": sample("", tokens=0, rewards={}, failures={"endpoint": "invalid: the response holds no text"}),
    "truncated": sample(finish_reason="length"),
    "checker-failed": sample(rewards={"accuracy": None}, failures={"accuracy": "timeout: 5 s"}),
    "incorrect": sample(rewards={"accuracy": 0.5, "format": 1.0}),
    "format": sample(rewards={"accuracy": 1.0, "format": 0.0}),
    "stray-tags": sample(GOOD + "<|im_end|>"),
    "stray-code": sample("<think>```python\nprint(5)\n```</think> <answer>5</answer>"),
    "language-mix": sample(rewards={"accuracy": 1.0, "format": 1.0, "language": 0.6}),
    "repetition": sample("<think>" + "I add two and three and get five. " * 9 + "</think> <answer>5</answer>"),
    "too-long": sample(tokens=101),
    "paragraph-too-long": sample("<think>" + " ".join(f"word{i}" for i in range(400)) + "</think> <answer>5</answer>"),
    "unjudged": sample(rewards={"accuracy": None, "format": 1.0}),
}


@pytest.mark.parametrize("reason", CASES)
def test_each_fault_has_its_reason(reason: str) -> None:
    assert first_reason(CASES[reason], ALL) == reason
    assert first_reason(CASES[reason], NONE) == ("no-reply" if reason == "no-reply" else "kept"), "never training data"


def test_every_filter_is_exercised_and_advises() -> None:
    assert {each.reason for each in FILTERS} == set(CASES) - {"kept"}
    for reason in [*ADVICE, "rewrite-incorrect", "rewrite-format"]:
        assert "`" in advice_for(reason), reason


@given(st.text(max_size=300), st.sampled_from(["", "<think>", "</answer>", "```", "<|x|>", "<b>"]), st.integers(0, 3))
def test_any_text_is_one_reason_and_survives_the_way_to_disk(text: str, mark: str, times: int) -> None:
    made = sample(text + mark * times + text)
    made.reason = first_reason(made, ALL)
    assert made.reason in {"kept", *(each.reason for each in FILTERS)}
    assert from_row(made.row()) == made


@given(st.text(max_size=200))
def test_more_of_a_fault_never_reads_better(text: str) -> None:
    assert stray_tags(text + "<|im_start|>") >= stray_tags(text) if "```" not in text and "~~~" not in text else True
    assert 0.0 <= repetition_share(text) <= 1.0
    terms = readability(text)
    assert all(0.0 <= term <= 1.0 for term in (terms.tags, terms.repetition, terms.length, terms.mixing))
    assert terms.score == pytest.approx(terms.tags * terms.repetition * terms.length * terms.mixing)


def test_readability_is_what_its_page_says() -> None:
    assert readability(GOOD).score == 1.0
    assert readability("").score == 0.0
    assert readability(GOOD + "<|im_end|>").tags == 0.5
    assert readability(GOOD + "<|im_end|></s><answer>").tags < 0.34
    assert readability(" ".join(f"w{i}" for i in range(300))).length == 0.5
    half = "We add the numbers and then we see the sum. 我们把这些数字加起来然后得到结果。"
    assert readability(half).mixing < 0.7
    assert readability("so we add " * 50).repetition < 0.1
    assert readability("ha" * 2000).repetition < 0.1, "a loop without spaces"
    assert readability("<think>2 + 3 = 5. 5 + 1 = 6. 6 + 4 = 10.</think> <answer>10</answer>").score == 1.0


def test_measures() -> None:
    assert stray_tags(GOOD) == 0
    assert stray_tags("<think>a<think>b</think>") == 2  # repeated, and one of them never closed
    assert stray_tags("```html\n<b>x</b>\n``` a < b > c and 3<4") == 0
    assert has_code("def f(x):\n    return x\n")
    assert not has_code("Import duties rise.\nfor each of them: two.")
    assert longest_paragraph("one two\n\nthree four five\n \nsix") == 3
    assert longest_paragraph("我们把这些数字加起来") == 5


@pytest.mark.parametrize(
    "text",
    ["<think>" * 200_000, "a" * 3_000_000, "```" + "x\n" * 400_000, "<" * 500_000, "<|" * 400_000, "\n \n" * 300_000,
     "for x in " * 200_000, "中" * 500_000, "$" * 300_000, "wait " * 300_000, "\ud800" * 100_000],
)  # fmt: skip
def test_huge_and_unclosed_texts_end_soon(text: str) -> None:
    started = time.process_time()
    first_reason(sample(text, rewards={"accuracy": 1.0, "format": 1.0, "language": 1.0}), FilterSection())
    assert 0.0 <= readability(text).score <= 1.0
    assert time.process_time() - started < 20


def test_too_few_names_the_filter_and_the_fix() -> None:
    dropped = [sample(reason="format")] * 3 + [sample(reason="incorrect")]
    words = too_few([*dropped, sample()], 1, 5, "runs/x")
    assert "1 of 5 samples were kept" in words
    assert "at least 5" in words
    assert "format 3, incorrect 1" in words
    assert "Most went to `format`" in words
    assert "filters.format=null" in words
    assert "source=runs/x/samples.jsonl" in words
    assert "raise `problems`" in too_few([sample()], 1, 5, "runs/x")


def test_examples_are_left_out_of_what_is_trained_on() -> None:
    section = PromptSection(
        system="Be brief.", instruction="Q: {question}", examples=(Example(question="a", completion="b"),)
    )
    assert turns_before(section, "2 + {question}?") == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Q: 2 + {question}?"},
    ]
