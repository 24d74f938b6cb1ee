"""The ways to ask, set side by side: a benchmark's own prompt, direct, few-shot with and without a chain of thought,
zero-shot chain of thought, and the R1-Zero template.

The paper (arXiv 2501.12948, section 5) finds that few-shot prompting hurts DeepSeek-R1 and asks zero-shot.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

from rethink.errors import UsageError
from rethink.eval.benchmark import Benchmark
from rethink.eval.benchmarks import examples as shots
from rethink.eval.benchmarks.examples import Worked
from rethink.recipe.schema import Example, PromptSection
from rethink.store.as_trained import AsTrained

Mode = Literal["default", "direct", "few-shot", "few-shot-cot", "zero-shot-cot", "r1"]
MODES: tuple[Mode, ...] = get_args(Mode)
ALL = "all"
AS_TRAINED = "as trained"
"""What the mode `default` is called where a model is asked as it was trained."""
_SIDE_BY_SIDE: tuple[Mode, ...] = ("direct", "few-shot", "few-shot-cot", "zero-shot-cot", "r1")

_STEP_BY_STEP = {"en": "Let's think step by step.", "zh": "让我们一步一步地思考。"}
_ONLY = {"en": "Give only the answer, without any explanation, in this form: ", "zh": "只给出答案，不要解释，格式为："}
_END = {"en": "End your response in this form: ", "zh": "最后按以下格式作答："}


def modes_of(prompting: str) -> tuple[Mode, ...]:
    """The modes that `--prompting` names: one, or the five of the comparison.

    Raises:
        UsageError: no such mode.
    """
    if prompting == ALL:
        return _SIDE_BY_SIDE
    for mode in MODES:
        if mode == prompting:
            return (mode,)
    raise UsageError(
        f"there is no prompting mode {prompting!r}; modes are {', '.join(MODES)}, and {ALL} for the last five"
    )


def prompt_section(benchmark: Benchmark, mode: Mode) -> PromptSection:
    """How a benchmark is asked in a mode.

    Raises:
        UsageError: the benchmark cannot be asked so (no worked examples, or no short form of the answer).
    """
    if mode == "default":
        return PromptSection(instruction=default_prompt(benchmark))
    if mode == "r1":
        return PromptSection(template="r1-zero", instruction=_own_words(benchmark))
    if benchmark.family in ("instructions", "code"):
        raise UsageError(
            f"{benchmark.name} cannot be asked in the mode {mode}: its answers are whole texts, so there is no short "
            "form of an answer and no chain of thought to compare; use --prompting default or r1"
        )
    form = answer_form(benchmark)
    if mode == "direct":
        return PromptSection(instruction="{question}\n" + _ONLY[benchmark.language] + form.replace("{answer}", "…"))
    if mode == "zero-shot-cot":
        end = _END[benchmark.language] + form.replace("{answer}", "…")
        return PromptSection(instruction="{question}\n" + _STEP_BY_STEP[benchmark.language] + " " + end)
    worked = worked_examples(benchmark)
    thinks = mode == "few-shot-cot"
    return PromptSection(
        instruction="{question}",
        examples=tuple(
            Example(
                question=one.question,
                completion=(f"{one.thought} " if thinks else "") + form.replace("{answer}", one.answer),
            )
            for one in worked
        ),
    )


def asked(benchmark: Benchmark, mode: Mode, trained: AsTrained | None) -> tuple[PromptSection, str]:
    """How a model is asked a benchmark, and what that is called.

    By default a model is asked as it was trained. What a benchmark says of the answer's form is added where the run
    asked no problems, or where no other form can be judged.

    Args:
        benchmark: what is measured.
        mode: as the user says.
        trained: how the model was trained; None: that is not known, or does not matter.

    Raises:
        UsageError: see `prompt_section`.
    """
    if mode != "default":
        return prompt_section(benchmark, mode), mode
    if benchmark.section is not None:
        return benchmark.section, AS_TRAINED
    if trained is None or trained.prompt is None:
        return prompt_section(benchmark, mode), mode
    own = _own_words(benchmark) if trained.tasks else default_prompt(benchmark)
    instruction = trained.prompt.instruction.replace("{question}", own)
    return trained.prompt.model_copy(update={"instruction": instruction, "max_tokens": None}), AS_TRAINED


def stop_strings(mode: Mode, prompting: str, trained: AsTrained | None) -> tuple[str, ...]:
    """What ends a completion beside the model's own end: base models, asked with the R1 template, continue with the
    user's turn.
    """
    if prompting == AS_TRAINED:
        return () if trained is None else trained.stop_strings
    return ("\nUser:",) if mode == "r1" else ()


def default_prompt(benchmark: Benchmark) -> str:
    """The benchmark's own user turn, with its worked examples where it has any."""
    if "{examples}" not in benchmark.prompt:
        return benchmark.prompt
    texts = [f"# Example {i}\n{one.question}\n{one.thought}\nAnswer: {one.answer}" for i, one in
             enumerate(worked_examples(benchmark), 1)]  # fmt: skip
    return benchmark.prompt.replace("{examples}", "\n\n".join(texts))


def answer_form(benchmark: Benchmark) -> str:
    """How an answer is written, `{answer}` standing for it: what the benchmark's grader looks for."""
    if benchmark.family == "choice":
        return "答案：{answer}" if benchmark.language == "zh" else "ANSWER: {answer}"
    if benchmark.family in ("reading", "short"):
        return "Answer: {answer}"
    if benchmark.family == "puzzle":
        return "<answer>{answer}</answer>"
    return "\\boxed{" + "{answer}" + "}"


def worked_examples(benchmark: Benchmark) -> Sequence[Worked]:
    """The examples of a benchmark's family and language.

    Raises:
        UsageError: there are none.
    """
    chinese = benchmark.language == "zh"
    if benchmark.name == "clue-wsc":
        return shots.WSC_ZH
    by_family: dict[str, Sequence[Worked]] = {
        "math": shots.MATH_ZH if chinese else shots.MATH_EN,
        "choice": shots.CHOICE_ZH if chinese else shots.CHOICE_EN,
        "reading": shots.READING,
        "short": shots.SHORT,
    }
    if benchmark.family not in by_family:
        raise UsageError(
            f"{benchmark.name} has no worked examples, so few-shot prompting is not possible; use --prompting default, "
            "direct, zero-shot-cot or r1"
        )
    return by_family[benchmark.family]


def _own_words(benchmark: Benchmark) -> str:
    """The user's turn for a prompt that says by itself where the answer goes. Code and instructions keep what their own
    prompt says of the answer's form.
    """
    if benchmark.family in ("code", "instructions"):
        return benchmark.prompt
    return "{question}" + _choices_hint(benchmark)


def _choices_hint(benchmark: Benchmark) -> str:
    """Such a prompt does not say that a letter is wanted."""
    if benchmark.family != "choice":
        return ""
    return "\n" + _END[benchmark.language] + answer_form(benchmark).replace("{answer}", "…")
