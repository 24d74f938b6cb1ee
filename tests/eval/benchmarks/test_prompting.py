"""The ways to ask."""

from __future__ import annotations

import pytest

from rethink.errors import UsageError
from rethink.eval.benchmarks.catalogue import benchmarks, find_benchmark
from rethink.eval.benchmarks.prompting import (
    MODES,
    Mode,
    answer_form,
    default_prompt,
    modes_of,
    prompt_section,
    worked_examples,
)
from rethink.types import Problem


def test_modes() -> None:
    assert modes_of("all") == ("direct", "few-shot", "few-shot-cot", "zero-shot-cot", "r1")
    assert modes_of("r1") == ("r1",)
    with pytest.raises(UsageError, match="no prompting mode 'cot'"):
        modes_of("cot")


def test_a_few_shot_chain_of_thought_adds_the_thought_alone() -> None:
    benchmark = find_benchmark("gsm8k")
    plain, chain = prompt_section(benchmark, "few-shot"), prompt_section(benchmark, "few-shot-cot")
    assert [e.question for e in plain.examples] == [e.question for e in chain.examples]
    for short, long, worked in zip(plain.examples, chain.examples, worked_examples(benchmark), strict=True):
        assert long.completion == f"{worked.thought} {short.completion}"
        assert short.completion == f"\\boxed{{{worked.answer}}}"


@pytest.mark.parametrize(
    "name", [name for name in benchmarks() if benchmarks()[name].family not in ("code", "instructions")]
)
def test_worked_examples_are_right_by_their_own_grader(name: str) -> None:
    benchmark = benchmarks()[name]
    for mode in ("few-shot", "few-shot-cot"):
        section = prompt_section(benchmark, mode)  # type: ignore[arg-type]
        for example, worked in zip(section.examples, worked_examples(benchmark), strict=True):
            problem = Problem("e", name, worked.question, worked.answer, {"answers": [worked.answer]})
            assert benchmark.grader.judge(problem, example.completion).score == 1.0


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", benchmarks())
def test_every_mode_asks_the_question_or_refuses(name: str, mode: Mode) -> None:
    benchmark = benchmarks()[name]
    if benchmark.family in ("code", "instructions") and mode not in ("default", "r1"):
        with pytest.raises(UsageError, match="cannot be asked in the mode"):
            prompt_section(benchmark, mode)
        return
    section = prompt_section(benchmark, mode)
    assert section.instruction.count("{question}") == 1
    assert "{examples}" not in section.instruction
    assert (section.template == "r1-zero") == (mode == "r1")
    if mode in ("direct", "zero-shot-cot"):
        assert answer_form(benchmark).replace("{answer}", "…") in section.instruction


def test_puzzles_have_no_worked_examples() -> None:
    with pytest.raises(UsageError, match="no worked examples"):
        prompt_section(find_benchmark("chain_sum"), "few-shot")


def test_drop_shows_three_examples_by_default() -> None:
    text = default_prompt(find_benchmark("drop"))
    assert text.count("# Example") == 3
    assert text.count("Answer: ") == 4
