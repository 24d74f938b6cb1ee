"""IFEval's instructions: each kind on responses that follow it and responses that just do not."""

from __future__ import annotations

import json
import time
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rethink.eval.grading.graders import IFEVAL
from rethink.eval.grading.ifeval.counting import count_sentences, count_words
from rethink.eval.grading.ifeval.instructions import CHECKS, check_instruction, follows, judge, loose_variants
from rethink.eval.results import _instruction_shares
from rethink.types import Problem
from tests.paths import SHARED_DATA

FILE = SHARED_DATA / "sets" / "ifeval.jsonl"
GERMAN = "Der schnelle braune Fuchs springt über den faulen Hund und läuft danach in den dunklen Wald."
ENGLISH = "the quick brown fox jumps over the lazy dog and then it runs away into the dark forest."

# kind, arguments, responses that follow, responses that do not
CASES: list[tuple[str, dict[str, Any], list[str], list[str]]] = [
    ("keywords:existence", {"keywords": ["sun", "c++"]}, ["Sunny C++"], ["sun", "c++", "sun c+"]),
    (
        "keywords:frequency",
        {"keyword": "war", "frequency": 2, "relation": "at least"},
        ["War and war", "warfare, War"],
        ["war", ""],
    ),
    ("keywords:frequency", {"keyword": "a.", "frequency": 1, "relation": "less than"}, ["ab ab"], ["a."]),
    ("keywords:forbidden_words", {"forbidden_words": ["rock"]}, ["rocket, crock"], ["Rock!", "a rock."]),
    (
        "keywords:letter_frequency",
        {"letter": "#", "let_frequency": 2, "let_relation": "at least"},
        ["# a ## b"],
        ["# a"],
    ),
    ("keywords:letter_frequency", {"letter": "Q", "let_frequency": 1, "let_relation": "less than"}, ["abc"], ["q"]),
    ("language:response_language", {"language": "de"}, [GERMAN, "1234"], [ENGLISH]),
    (
        "length_constraints:number_sentences",
        {"num_sentences": 2, "relation": "less than"},
        ["Mr. Smith met Dr. Jones at 5 p.m. in the U.S. and left."],
        ["One. Two.", "One! Two? Three."],
    ),
    ("length_constraints:number_paragraphs", {"num_paragraphs": 2}, ["a\n***\nb", "***a***b***"], ["a", "a***\n***b"]),
    ("length_constraints:number_words", {"num_words": 3, "relation": "at least"}, ["one-two three"], ["one two", "…"]),
    (
        "length_constraints:nth_paragraph_first_word",
        {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "Then"},
        ['a\n\n"Then, b', "a\n\nthen b\n\n "],
        ["a\n\nb then", "then", "a\n\nthen\n\nc", "a\n\n\n\nthen"],
    ),
    ("detectable_content:number_placeholders", {"num_placeholders": 2}, ["[a] and [b c]"], ["[a", "[a\n]", "[a]"]),
    ("detectable_content:postscript", {"postscript_marker": "P.S."}, ["x\nP.S. y", "p. s. y"], ["PS y"]),
    ("detectable_content:postscript", {"postscript_marker": "P.P.S"}, ["P.P.S y", "p. p. s"], ["P.S. y"]),
    ("detectable_format:number_bullet_lists", {"num_bullets": 2}, ["* a\n- b", " * a\n\n\t* b"], ["* a", "**a**\n* b"]),
    ("detectable_format:constrained_response", {}, ["So: My answer is no."], ["my answer is no.", "No."]),
    (
        "detectable_format:number_highlighted_sections",
        {"num_highlights": 2},
        ["*a* *b*", "**a** *b*"],
        ["*a*", "**a**", "* * *b*", "**  **"],
    ),
    (
        "detectable_format:multiple_sections",
        {"section_spliter": "Section", "num_sections": 2},
        ["Section 1 a Section 2 b"],
        ["Section 1 a", "section 1 section 2", "Section X Section Y"],
    ),
    ("detectable_format:json_format", {}, ['```json\n{"a": 1}\n```', "[1]", '"x"'], ["{a: 1}", "[" * 9999, ""]),
    ("detectable_format:title", {}, ["<<joy>>", "x <<< a >> y"], ["<<>>", "<< >>", "<<a\n>>", "<joy>"]),
    ("combination:two_responses", {}, ["a******b", "******a******b"], ["a", "a******a", "a************b"]),
    ("combination:repeat_prompt", {"prompt_to_repeat": "Do it. "}, ["do it. Done"], ["I do it.", "Do  it."]),
    ("startend:end_checker", {"end_phrase": "The end."}, ['x "the end."', "THE END.\n"], ["The end. Yes"]),
    ("startend:quotation", {}, ['"a"', ' "a" '], ['"', '"a', "'a'"]),
    (
        "change_case:capital_word_frequency",
        {"capital_frequency": 2, "capital_relation": "at least"},
        ["NASA and ESA.", "WELL-KNOWN BIG"],
        ["NASA", "Nasa Esa"],
    ),
    ("change_case:english_capital", {}, [ENGLISH.upper()], [ENGLISH, GERMAN.upper()]),
    ("change_case:english_lowercase", {}, [ENGLISH], [ENGLISH.upper(), GERMAN.lower()]),
    ("punctuation:no_comma", {}, ["a; b"], ["a, b"]),
]


def test_every_kind_has_a_case() -> None:
    assert {kind for kind, *_ in CASES} == set(CHECKS)
    assert len(CHECKS) == 25


@pytest.mark.parametrize(("kind", "arguments", "good", "bad"), CASES, ids=lambda value: str(value)[:40])
def test_kind(kind: str, arguments: dict[str, Any], good: list[str], bad: list[str]) -> None:
    assert check_instruction(kind, arguments) is None
    for response in good:
        assert follows(kind, arguments, response), response
    for response in bad:
        assert not follows(kind, arguments, response), response


def test_loose_forgives_an_introduction_a_farewell_and_asterisks() -> None:
    kinds, arguments = ["startend:quotation", "punctuation:no_comma"], [{}, {}]
    strict, loose = judge(kinds, arguments, 'Sure, here it is:\n*"My text."*\nBest, me')
    assert (strict, loose) == ([False, False], [True, True])
    assert judge(kinds, arguments, "") == ([False, False], [False, False])
    assert len(loose_variants("a")) == 8


def test_the_score_is_strict_and_every_number_stands_apart() -> None:
    """Three responses: both instructions followed, both only loosely, one of two."""
    metadata = {"instructions": ["startend:quotation", "punctuation:no_comma"], "arguments": [{}, {}]}
    problem = Problem("p", "ifeval", "Write.", None, metadata)
    verdicts = [IFEVAL.judge(problem, text) for text in ('"a"', 'Here, as asked:\n"a"', '"a, b"')]
    assert [verdict.score for verdict in verdicts] == [1.0, 0.0, 0.0]
    samples: list[Any] = [SimpleNamespace(detail=json.dumps(dict(verdict.detail))) for verdict in verdicts]
    assert _instruction_shares(samples) == {
        "prompt_strict": pytest.approx(1 / 3),
        "prompt_loose": pytest.approx(2 / 3),
        "instruction_strict": pytest.approx(3 / 6),
        "instruction_loose": pytest.approx(5 / 6),
    }


def test_wrong_data_is_explained() -> None:
    assert "unknown instruction" in str(check_instruction("keywords:extinct", {}))
    assert "num_words, relation" in str(check_instruction("length_constraints:number_words", {"num_words": None}))
    assert check_instruction("punctuation:no_comma", None) is None


@given(st.text(max_size=300))
def test_nothing_raises_and_loose_contains_strict(response: str) -> None:
    arguments = [dict(args) for _, args, _, _ in CASES]
    kinds = [kind for kind, *_ in CASES]
    quick = [i for i, kind in enumerate(kinds) if "english" not in kind and "language" not in kind]
    strict, loose = judge([kinds[i] for i in quick], [arguments[i] for i in quick], response)
    assert all(b or not a for a, b in zip(strict, loose, strict=True))


@pytest.mark.parametrize("unit", ["[", "*", "<<", "\n", "Section ", "a.", '"', "p.", "a, ", "\\boxed{"])
def test_hostile_lengths_take_linear_time(unit: str) -> None:
    def seconds(size: int) -> float:
        text = unit * size
        start = time.process_time()
        for kind, args, _, _ in CASES:
            if "english" not in kind and "language" not in kind:
                follows(kind, args, text)
        return time.process_time() - start

    seconds(100)
    # A quadratic check would take 256 times as long on 16 times the text.
    assert seconds(32_000) < 64 * seconds(2_000) + 1.0


def test_counts() -> None:
    assert count_words("Don't stop-now 3.5") == 6
    assert count_sentences("She lives in Washington D.C. and works for Acme Inc. in spring. He does not.") == 2
    assert count_sentences("") == 0


@pytest.mark.skipif(not FILE.is_file(), reason=f"{FILE} is not there")
def test_the_published_prompts_are_understood() -> None:
    seen: dict[str, int] = {}
    for line in FILE.read_text("utf-8").splitlines():
        row = json.loads(line)
        for kind, args in zip(row["instruction_id_list"], row["kwargs"], strict=True):
            assert check_instruction(kind, args) is None, row["id"]
            seen[kind] = seen.get(kind, 0) + 1
            if kind == "combination:repeat_prompt":
                assert follows(kind, args, args["prompt_to_repeat"] + "\n\nHere it is.")
    assert set(seen) == set(CHECKS)
