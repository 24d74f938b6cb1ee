"""Every benchmark by name, with its hub data set, prompt, grader and the paper's sampling.

Here are those of the paper, and `benchmarks()`, which finds these and every `BENCHMARK` of a module beside this one or
of an installed package.

Sampling is the paper's (arXiv 2501.12948, section 3 and supplement: temperature 0.6, top-p 0.95, 32,768 tokens; k = 64
for AIME and GPQA, 16 for MATH-500, 8 for LiveCodeBench); where it names no k, one sample a problem is drawn.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from functools import cache, partial
from pathlib import Path

from rethink.errors import TaskError, UsageError
from rethink.eval.benchmark import Benchmark, HubData
from rethink.eval.benchmarks import readers
from rethink.eval.benchmarks.gym_tasks import gym_benchmark
from rethink.eval.grading.code_graders import HUMANEVAL, LIVECODEBENCH, MBPP
from rethink.eval.grading.graders import CHOICE, DROP, IFEVAL, MATH, SHORT, YES_NO
from rethink.recipe.registry import registered

ENTRY_POINTS = "rethink.benchmarks"
"""Group under which an installed package names its own benchmarks: `mine = "my_package.mine:BENCHMARK"`."""

BOX = "{question}\nPlease reason step by step, and put your final answer within \\boxed{}."
"""The default prompt of the mathematics sets."""
BOX_ZH = "{question}\n请通过逐步推理来解答问题，并把最终答案放置于\\boxed{}中。"
CHOOSE = (
    "Answer the following multiple choice question. The last line of your response should be of the following format: "
    "'ANSWER: $LETTER' (without quotes) where LETTER is one of LETTERS. Think step by step before answering.\n\n"
    "{question}"
)
CHOOSE_ZH = (
    "回答下面的单项选择题。请先逐步思考，最后一行按以下格式作答：“答案：$LETTER”，其中 LETTER 是选项的字母。\n\n"
    "{question}"
)
READ = (
    "Read the passage and answer the question. Three examples come first.\n\n{examples}\n\n# Your task\n{question}\n\n"
    'Think step by step, then write a line of the form "Answer: $ANSWER" at the end of your response.'
)
WSC = "{question}\n请先思考，最后一行写“答案：是”或“答案：否”。"
SHORT_PROMPT = '{question}\n\nEnd your response with a line of the form "Answer: $ANSWER".'
PROGRAM = (
    "Read the following function signature and docstring, and fully implement the function described. Your response "
    "should only contain the code for this function, in a block between ```python and ```.\n\n{question}"
)
TASK = (
    "You are an expert Python programmer, and here is your task: {question}\n\nWrite the code in a block between "
    "```python and ```."
)
CONTEST = (
    "You will be given a programming problem and write a correct Python program that matches the specification and "
    "passes all tests.\n\n{question}\n\nThink step by step, then write the program in a block between ```python and "
    "```."
)
BOX_BY_LANGUAGE: Mapping[str, str] = {
    "bn": "{question}\nঅনুগ্রহ করে ধাপে ধাপে যুক্তি দিন এবং চূড়ান্ত উত্তর \\boxed{}-এর মধ্যে লিখুন।",
    "de": "{question}\nBitte denke Schritt für Schritt nach und schreibe das Endergebnis in \\boxed{}.",
    "en": BOX,
    "es": "{question}\nRazona paso a paso y escribe la respuesta final dentro de \\boxed{}.",
    "fr": "{question}\nRaisonne étape par étape et écris la réponse finale dans \\boxed{}.",
    "ja": "{question}\n順を追って考え、最後の答えを \\boxed{} の中に書いてください。",
    "ru": "{question}\nРассуждай шаг за шагом и запиши окончательный ответ в \\boxed{}.",
    "sw": "{question}\nTafadhali fikiri hatua kwa hatua, kisha weka jibu la mwisho ndani ya \\boxed{}.",
    "te": "{question}\nదయచేసి దశలవారీగా ఆలోచించి, తుది సమాధానాన్ని \\boxed{} లో ఉంచండి.",
    "th": "{question}\nโปรดคิดทีละขั้นตอน แล้วใส่คำตอบสุดท้ายไว้ใน \\boxed{}",
    "zh": BOX_ZH,
}
"""MGSM's languages."""

_REDUX_SUBJECTS = tuple(
    """
    abstract_algebra anatomy astronomy business_ethics clinical_knowledge college_biology college_chemistry
    college_computer_science college_mathematics college_medicine college_physics computer_security conceptual_physics
    econometrics electrical_engineering elementary_mathematics formal_logic global_facts high_school_biology
    high_school_chemistry high_school_computer_science high_school_european_history high_school_geography
    high_school_government_and_politics high_school_macroeconomics high_school_mathematics high_school_microeconomics
    high_school_physics high_school_psychology high_school_statistics high_school_us_history high_school_world_history
    human_aging human_sexuality international_law jurisprudence logical_fallacies machine_learning management marketing
    medical_genetics miscellaneous moral_disputes moral_scenarios nutrition philosophy prehistory
    professional_accounting professional_law professional_medicine professional_psychology public_relations
    security_studies sociology us_foreign_policy virology world_religions
    """.split()
)
_CEVAL_SUBJECTS = tuple(
    """
    accountant advanced_mathematics art_studies basic_medicine business_administration chinese_language_and_literature
    civil_servant clinical_medicine college_chemistry college_economics college_physics college_programming
    computer_architecture computer_network discrete_mathematics education_science electrical_engineer
    environmental_impact_assessment_engineer fire_engineer high_school_biology high_school_chemistry
    high_school_chinese high_school_geography high_school_history high_school_mathematics high_school_physics
    high_school_politics ideological_and_moral_cultivation law legal_professional logic mao_zedong_thought marxism
    metrology_engineer middle_school_biology middle_school_chemistry middle_school_geography middle_school_history
    middle_school_mathematics middle_school_physics middle_school_politics modern_chinese_history operating_system
    physician plant_protection probability_and_statistics professional_tour_guide sports_science tax_accountant
    teacher_qualification urban_and_rural_planner veterinary_medicine
    """.split()
)

_math = partial(Benchmark, family="math", read=readers.read_math, grader=MATH, group="Math")
_choice = partial(Benchmark, family="choice", read=readers.read_choice, grader=CHOICE, group="English")
_code = partial(Benchmark, family="code", group="Code")


def _choose(letters: str) -> str:
    return CHOOSE.replace("LETTERS", letters)


def _mgsm(language: str | None) -> Benchmark:
    names = [language] if language else list(BOX_BY_LANGUAGE)
    return _math(
        name=f"mgsm-{language}" if language else "mgsm",
        title=f"MGSM ({language})" if language else "MGSM",
        data=HubData(
            "juletxara/mgsm",
            "f52417ca77bd71e9888ddc29f92587660725d2b4",
            configs=tuple(names),
            files=tuple(f"mgsm_{name}.tsv" for name in names),
        ),
        prompt=BOX_BY_LANGUAGE[language] if language else BOX,
        group="Chinese" if language == "zh" else "Math",
        language="zh" if language == "zh" else "en",
        note="" if language else "all languages with the English instruction; mgsm-LANGUAGE asks in its own",
    )


BENCHMARKS: tuple[Benchmark, ...] = (
    _math(
        name="gsm8k",
        title="GSM8K",
        prompt=BOX,
        data=HubData("openai/gsm8k", "e53f048856ff4f594e959d75785d2c2d37b678ee", configs=("main",)),
    ),
    _math(
        name="math500",
        title="MATH-500",
        prompt=BOX,
        k=16,
        data=HubData("HuggingFaceH4/MATH-500", "ff5b20257d8185524591543f8ff5993951537bb8"),
    ),
    _math(
        name="aime24",
        title="AIME 2024",
        prompt=BOX,
        k=64,
        data=HubData("HuggingFaceH4/aime_2024", "2fe88a2f1091d5048c0f36abc874fb997b3dd99a", split="train"),
    ),
    _math(
        name="aime25",
        title="AIME 2025",
        prompt=BOX,
        k=64,
        data=HubData("math-ai/aime25", "563bb8404243c5f09de6ec262f2db674fe5bce9b"),
        note="not in the paper; sampled as its AIME 2024",
    ),
    _math(
        name="amc23",
        title="AMC 2023",
        prompt=BOX,
        k=64,
        data=HubData("math-ai/amc23", "main"),
        note="not in the paper; sampled as its AIME 2024",
    ),
    _choice(
        name="gpqa-diamond",
        title="GPQA Diamond",
        prompt=_choose("ABCD"),
        k=64,
        read=readers.read_gpqa,
        data=HubData(
            "Idavidrein/gpqa", "633f5ee89ab8ad4522a9f850766b73f62147ffdd", split="train", configs=("gpqa_diamond",)
        ),
    ),
    _choice(
        name="mmlu",
        title="MMLU",
        prompt=_choose("ABCD"),
        data=HubData("cais/mmlu", "c30699e8356da336a370243923dbaf21066bb9fe", configs=("all",)),
    ),
    _choice(
        name="mmlu-pro",
        title="MMLU-Pro",
        prompt=_choose("ABCDEFGHIJ"),
        metric="EM",
        data=HubData("TIGER-Lab/MMLU-Pro", "b189ec765aa7ed75c8acfea42df31fdae71f97be"),
    ),
    _choice(
        name="mmlu-redux",
        title="MMLU-Redux",
        prompt=_choose("ABCD"),
        metric="EM",
        read=readers.read_redux,
        data=HubData("edinburgh-dawg/mmlu-redux-2.0", "main", configs=_REDUX_SUBJECTS),
        note="asked as MMLU; the paper uses the prompt of Zero-Eval",
    ),
    Benchmark(
        name="drop",
        title="DROP",
        family="reading",
        read=readers.read_drop,
        grader=DROP,
        group="English",
        prompt=READ,
        metric="3-shot F1",
        shots=True,
        data=HubData("ucinlp/drop", "95cda593fae71b60b5b19f82de3fcf3298c1239c", split="validation"),
        note="the three examples are ours",
    ),
    Benchmark(
        name="ifeval",
        title="IF-Eval",
        family="instructions",
        read=readers.read_ifeval,
        grader=IFEVAL,
        group="English",
        prompt="{question}",
        metric="Prompt Strict",
        data=HubData("google/IFEval", "966cd89545d6b6acfd7638bc708b98261ca58e84", split="train"),
    ),
    Benchmark(
        name="simpleqa",
        title="SimpleQA",
        family="short",
        read=readers.read_short,
        grader=SHORT,
        group="English",
        prompt=SHORT_PROMPT,
        metric="Correct",
        data=HubData("basicv8vc/SimpleQA", "main"),
        note="judged by matching words; the paper's is a model's judgement",
    ),
    _code(
        name="humaneval",
        title="HumanEval",
        read=readers.read_humaneval,
        grader=HUMANEVAL,
        prompt=PROGRAM,
        data=HubData("openai/openai_humaneval", "7dce6050a7d6d172f3cc5c32aa97f52fa1a2e544"),
    ),
    _code(
        name="mbpp",
        title="MBPP",
        read=readers.read_mbpp,
        grader=MBPP,
        prompt=TASK,
        data=HubData(
            "google-research-datasets/mbpp", "4bb6404fdc6cacfda99d4ac4205087b89d32030c", configs=("sanitized",)
        ),
    ),
    _code(
        name="livecodebench",
        title="LiveCodeBench",
        read=readers.read_livecodebench,
        grader=LIVECODEBENCH,
        prompt=CONTEST,
        k=8,
        metric="Pass@1-COT",
        data=HubData(
            "livecodebench/code_generation_lite",
            "0fe84c3912ea0c4d4a78037083943e8f0c4dd505",
            files=("test4.jsonl", "test5.jsonl"),
        ),
    ),
    _math(
        name="cmath",
        title="CMATH",
        prompt=BOX_ZH,
        group="Chinese",
        language="zh",
        data=HubData("weitianwen/cmath", "main", split="test"),
    ),
    _mgsm(None),
    *(_mgsm(language) for language in BOX_BY_LANGUAGE),
    _choice(
        name="c-eval",
        title="C-Eval",
        prompt=CHOOSE_ZH,
        metric="EM",
        group="Chinese",
        language="zh",
        data=HubData("ceval/ceval-exam", "main", split="val", configs=_CEVAL_SUBJECTS),
        note="validation split; the test split's answers are not public",
    ),
    Benchmark(
        name="clue-wsc",
        title="CLUEWSC",
        family="choice",
        read=readers.read_wsc,
        grader=YES_NO,
        group="Chinese",
        language="zh",
        prompt=WSC,
        metric="EM",
        data=HubData("clue/clue", "main", split="validation", configs=("cluewsc2020",)),
    ),
)
_GYM = "reasoning-gym/"


@cache
def benchmarks() -> Mapping[str, Benchmark]:
    """Every benchmark by name: those of this package's modules, then those of other installed packages."""
    return registered("rethink.eval.benchmarks", ENTRY_POINTS, Benchmark, "a benchmark")


def find_benchmark(name: str) -> Benchmark:
    """The benchmark of a name: the registry's, a JSONL file of the user's, or a reasoning-gym task.

    Raises:
        UsageError: no such benchmark, with the nearest names.
        TaskError: the JSONL file does not exist.
    """
    plain = name.strip()
    canonical = plain.lower().replace("_", "-")
    if canonical in benchmarks():
        return benchmarks()[canonical]
    if plain.endswith(".jsonl"):
        return _own(plain)
    from reasoning_gym.factory import DATASETS  # slow to import

    task = plain.removeprefix(_GYM)
    if task in DATASETS:
        return gym_benchmark(task)
    names = [*benchmarks(), *DATASETS]
    near = difflib.get_close_matches(canonical, names, n=3, cutoff=0.5) or difflib.get_close_matches(
        task.lower(), names, n=3, cutoff=0.4
    )
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    raise UsageError(
        f"there is no benchmark {name!r}; {hint}Known are {', '.join(benchmarks())}, any reasoning-gym task by its "
        "name, and your own JSONL file by its path (it must end in .jsonl)"
    )


def _own(path: str) -> Benchmark:
    if not Path(path).is_file():
        raise TaskError(
            f"the benchmark file {path!r} does not exist; paths are relative to the folder that the command runs in"
        )
    stem = Path(path).stem
    return Benchmark(
        name=stem,
        title=stem,
        family="math",
        data=None,
        read=readers.read_math,
        prompt=BOX,
        grader=MATH,
        path=Path(path),
    )
