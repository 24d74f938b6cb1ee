"""The ways to ask."""

from __future__ import annotations

import pytest

from rethink.errors import UsageError
from rethink.eval.benchmarks.catalogue import benchmarks, find_benchmark
from rethink.eval.benchmarks.prompting import (
    AS_TRAINED,
    MODES,
    Mode,
    answer_form,
    asked,
    default_prompt,
    modes_of,
    prompt_section,
    worked_examples,
)
from rethink.recipe.schema import PromptSection, TaskSource
from rethink.store.as_trained import AsTrained
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


def test_a_model_is_asked_as_it_was_trained_and_with_what_the_answer_needs() -> None:
    """A run that asked problems knows the form of the answer; one that was given conversations does not."""
    gsm8k, mmlu = find_benchmark("gsm8k"), find_benchmark("mmlu")
    prompt = PromptSection(template="r1-zero", instruction="Solve: {question}", prefill="<think>", max_tokens=9)
    task = TaskSource(kind="reasoning-gym", name="chain_sum")
    trained = AsTrained(kind="grpo", recipe="a", recipe_hash="b", prompt=prompt, tasks=(task,))
    section, called = asked(gsm8k, "default", trained)
    assert section == prompt.model_copy(update={"max_tokens": None})
    assert called == AS_TRAINED
    section, _ = asked(mmlu, "default", trained)
    assert section.instruction.startswith("Solve: {question}\n")
    assert "ANSWER: …" in section.instruction
    tuned = AsTrained(kind="sft", recipe="a", recipe_hash="b", prompt=PromptSection(system="Be brief."))
    section, _ = asked(gsm8k, "default", tuned)
    assert (section.system, section.instruction) == ("Be brief.", gsm8k.prompt)
    assert asked(gsm8k, "r1", trained) == (prompt_section(gsm8k, "r1"), "r1")
    assert asked(gsm8k, "default", None) == (prompt_section(gsm8k, "default"), "default")
