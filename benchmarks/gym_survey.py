"""Every task of reasoning-gym: whether its gold answers get full marks, and the accuracy of the embedded model.

    .venv/bin/python benchmarks/gym_survey.py gold     # no model; a few minutes
    .venv/bin/python benchmarks/gym_survey.py rates    # with the embedded model; goes on where it stopped
    .venv/bin/python benchmarks/gym_survey.py levels   # what each setting changes; a few minutes
    .venv/bin/python benchmarks/gym_survey.py table > docs/reasoning-gym.md

The easiest setting is level 0 of the task's own curriculum, or its defaults where it has none. The prompt shows one
solved problem of the same setting, answered at once in `<answer>` (the data hold no thoughts); the model answers at
once too, four times at temperature 1. Results are kept as JSON lines in benchmarks/results/.
"""

from __future__ import annotations

import inspect
import json
import multiprocessing
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parent / "results"
GOLD, RATES = RESULTS / "reasoning_gym_gold.jsonl", RESULTS / "reasoning_gym_rates.jsonl"
LEVELS = RESULTS / "reasoning_gym_levels.jsonl"
SHOWN = 160
"""Characters of a problem that the page shows."""
GOLD_PROBLEMS, RATE_PROBLEMS, SAMPLES = 20, 8, 4
TASK_SECONDS = 60
LONGEST_PROMPT, LONGEST_ANSWER = 500, 64
"""Tokens; a task beyond them is not sampled, which the table says."""
INSTRUCTION = "{question}\nPut the answer between <answer> and </answer>."


def easiest(task: str) -> dict[str, Any]:
    """Parameters of level 0 of the task's curriculum; none (the defaults) where it has none that the task takes."""
    from reasoning_gym.coaching.base_curriculum import RangeAttributeDefinition
    from reasoning_gym.factory import CURRICULA

    from rethink.errors import TaskError
    from rethink.tasks.gym.library import make_dataset

    if task not in CURRICULA:
        return {}
    curriculum = CURRICULA[task]()
    config = curriculum.generate_configuration()
    names: list[str] = []
    for attribute in curriculum.attributes.values():
        both = isinstance(attribute, RangeAttributeDefinition)
        names += [attribute.lower_field_name, attribute.upper_field_name] if both else [attribute.field_name]
    values = {name: getattr(config, name) for name in names}
    try:
        plain: dict[str, Any] = json.loads(json.dumps(values))
        make_dataset(task, plain)
    except (TypeError, ValueError, TaskError):
        return {}  # knight_swap refuses its own level 0
    return plain


def tasks() -> list[str]:
    """All names that recipes take."""
    from reasoning_gym.factory import DATASETS

    from rethink.tasks.gym.library import REFUSED

    return sorted(set(DATASETS) - set(REFUSED))


# --- gold ----------------------------------------------------------------------------------------------------------


def gold() -> None:
    """Score gold answers at the easiest and the default setting, as training would: in the reward workers."""
    from rethink.check.measure import accuracy_alone, score_gold
    from rethink.recipe.schema import RewardSection, TaskSource
    from rethink.rewards.rubric import closing
    from rethink.tasks.mix import build_task_mix

    entries = tuple(TaskSource(kind="reasoning-gym", name=task) for task in tasks())
    reward = RewardSection()
    with closing(accuracy_alone(reward, "answer-tag", build_task_mix(entries, reward, seed=0))) as rubric:
        for task in missing(GOLD):
            row: dict[str, Any] = {"task": task, "settings": {}}
            for setting, params in (("easiest", easiest(task)), ("default", {})):
                problems = make_problems(task, params)
                if isinstance(problems, str):
                    row["settings"][setting] = {"error": problems}
                    continue
                known = [problem for problem in problems if problem.answer is not None]
                failing = [
                    {"gold": str(problem.answer)[:60], "said": outcome.failure or outcome.score}
                    for problem, outcome in zip(known, score_gold(rubric, known), strict=True)
                    if outcome.score is None or outcome.score < 1.0 - 1e-9
                ]
                row["settings"][setting] = {
                    "n": len(problems),
                    "without_gold": len(problems) - len(known),
                    "failing_number": len(failing),
                    "failing": failing[:3],
                }
            keep(GOLD, row)


def make_problems(task: str, params: dict[str, Any]) -> list[Any] | str:
    """Problems of a task, or why there are none. In a process of its own: some tasks take very long."""
    fork = multiprocessing.get_context("fork")
    here, there = fork.Pipe(duplex=False)
    process = fork.Process(target=lambda: there.send(_make_problems(task, params)))
    process.start()
    try:
        if here.poll(TASK_SECONDS):
            found: list[Any] | str = here.recv()
            return found
        return f"making {GOLD_PROBLEMS} problems takes longer than {TASK_SECONDS} s"
    finally:
        process.kill()
        process.join()


def _make_problems(task: str, params: dict[str, Any]) -> list[Any] | str:
    from rethink.errors import TaskError
    from rethink.recipe.schema import TaskSource
    from rethink.tasks.gym.problems import GymSource

    try:
        source = GymSource(task, TaskSource(kind="reasoning-gym", name=task, params=params), 0)
        return [source.train_problem(i, 0, lambda key: True) for i in range(GOLD_PROBLEMS)]
    except TaskError as error:
        return str(error)[:200]


# --- levels --------------------------------------------------------------------------------------------------------


def levels(task: str) -> dict[str, Any]:
    """What level 0 of a task's curriculum sets, what the defaults are, and what problems each gives."""
    from reasoning_gym.factory import CURRICULA

    from rethink.tasks.gym.library import make_dataset

    params = easiest(task)
    config = make_dataset(task, {}).config
    attributes = CURRICULA[task]().attributes.values() if task in CURRICULA else ()
    row: dict[str, Any] = {
        "task": task,
        "changes": {attribute.name: attribute.levels for attribute in attributes},
        "level 0": params,
        "default": {name: getattr(config, name) for name in params},
    }
    for setting, values in (("level 0", params), ("default", {})):
        problems = make_problems(task, values)
        if not isinstance(problems, str):
            lengths = [len(problem.question) for problem in problems]
            row[f"{setting} characters"] = round(sum(lengths) / len(lengths))
            row[f"{setting} problem"] = [problems[0].question[: 4 * SHOWN], str(problems[0].answer)[:SHOWN]]
    return json.loads(json.dumps(row, default=str))


def levels_table() -> list[str]:
    """The page's section on levels."""
    lines = ["", "## Level 0 and its problems", "", LEVELS_HEAD.format(problems=GOLD_PROBLEMS)]
    lines += ["| task | level 0 (defaults) | later levels | characters | a problem at level 0 → gold |"]
    lines += ["| --- | --- | --- | --- | --- |"]
    for task, row in sorted(read(LEVELS).items()):
        default = row["default"]
        settings = [
            f"{name} {_cell(json.dumps(value))}"
            + ("" if value == default[name] else f" ({_cell(json.dumps(default[name]))})")
            for name, value in row["level 0"].items()
        ]
        ends = [f"{name} to {_cell(json.dumps(values[-1]))}" for name, values in row["changes"].items() if values]
        sizes = [str(row.get(f"{setting} characters", "–")) for setting in ("level 0", "default")]
        question, answer = row.get("level 0 problem") or ("takes too long to make", "–")
        cells = [", ".join(settings) or "no level: the defaults", ", ".join(ends) or "–", " / ".join(sizes)]
        lines.append(f"| `{task}` | {' | '.join(cells)} | {_cell(question)} → {_cell(answer)[:60]} |")
    if waiting := list(missing(LEVELS)):
        lines += ["", "Not surveyed yet: " + ", ".join(f"`{task}`" for task in waiting) + "."]
    return lines


def _cell(text: str) -> str:
    """A text in a cell of Markdown: its end where it is long, since tasks explain themselves first."""
    plain = " ".join(text.split())
    plain = plain if len(plain) <= SHOWN else "…" + plain[-SHOWN:].lstrip()
    return plain.translate({ord(mark): f"\\{mark}" for mark in "|<>*_`[]"})


def _try(judge: Any, problem: Any, answer: str) -> float:
    try:
        return float(judge(problem, answer) or 0.0)
    except Exception:
        return 0.0


# --- rates ---------------------------------------------------------------------------------------------------------


class Sampler:
    """The embedded model, one engine for all tasks."""

    def __init__(self) -> None:
        from rethink.machine.placement import Placement
        from rethink.rollout.engines import open_engine

        # One thread: tasks are small, and others may use the machine.
        opened = open_engine("embedded", Placement(threads=1, device="cpu", kv_budget_bytes=2**29))
        self.checkpoint, self.engine = opened.checkpoint, opened.engine

    def rate(self, task: str) -> dict[str, Any]:
        """Pass rates of one task at its easiest setting."""
        if "error" in read(GOLD)[task]["settings"]["easiest"]:
            return {"task": task, "skipped": "its problems take too long to make"}
        from rethink.model.text.prompt import PromptRenderer
        from rethink.recipe.schema import Example, PromptSection, TaskSource
        from rethink.rewards.judges import reward_judges
        from rethink.tasks.gym.problems import GymSource
        from rethink.types import GenerationRequest, SamplingParams

        tokenizer = self.checkpoint.tokenizer
        source = GymSource(task, TaskSource(kind="reasoning-gym", name=task, params=easiest(task)), 0)
        shown, *problems = [source.train_problem(i, 0, lambda key: True) for i in range(RATE_PROBLEMS + 1)]
        found: dict[str, Any] = {"task": task, "n": len(problems), "samples": SAMPLES}
        longest = max(len(tokenizer.encode(str(p.answer))) for p in problems)
        if any(p.answer is None for p in (shown, *problems)) or longest > LONGEST_ANSWER:
            return found | {"skipped": f"an answer has {longest} tokens" if longest > LONGEST_ANSWER else "no gold"}
        section = PromptSection(
            instruction=INSTRUCTION,
            examples=(Example(question=shown.question, completion=f"<answer>{shown.answer}</answer>"),),
            prefill="<answer>",
        )
        renderer = PromptRenderer(tokenizer, section, self.engine.context)
        prompts = [renderer.render(p) for p in problems]
        if (most := max(len(p.token_ids) for p in prompts)) > LONGEST_PROMPT:
            return found | {"skipped": f"a prompt has {most} tokens"}
        started, stops = time.perf_counter(), tuple(sorted(tokenizer.end_of_turn_ids))
        params = SamplingParams(
            temperature=1.0,
            max_new_tokens=longest + longest // 2 + 16,
            stop_strings=("</answer>",),
            stop_token_ids=stops,
        )
        requests = [GenerationRequest(p.token_ids, tuple(range(SAMPLES)), params) for p in prompts]
        groups = self.engine.generate(requests)
        judge = reward_judges({task: source.judge})[task]
        scores = [
            # An engine leaves the stop string out of the text.
            [_try(judge, problem, c.text.partition("</answer>")[0].strip()) for c in group]
            for problem, group in zip(problems, groups, strict=True)
        ]
        solved = [[s >= 1.0 - 1e-9 for s in group] for group in scores]
        return found | {
            "rate": sum(map(sum, solved)) / (len(problems) * SAMPLES),
            "sometimes": sum(0 < sum(group) < SAMPLES for group in solved) / len(problems),
            "mean_score": sum(map(sum, scores)) / (len(problems) * SAMPLES),
            "prompt_tokens": most,
            "seconds": round(time.perf_counter() - started, 1),
        }


# --- files and the table ---------------------------------------------------------------------------------------------


def read(path: Path) -> dict[str, dict[str, Any]]:
    """Results by task; empty where there is no file."""
    lines = path.read_text("utf-8").splitlines() if path.exists() else []
    return {row["task"]: row for row in map(json.loads, lines)}


def question_length(task: str) -> int:
    """Characters of the first question: short ones are sampled first. Slow tasks come last."""
    from rethink.recipe.schema import TaskSource
    from rethink.tasks.gym.problems import GymSource

    if "error" in read(GOLD)[task]["settings"]["easiest"]:
        return 1 << 30
    source = GymSource(task, TaskSource(kind="reasoning-gym", name=task, params=easiest(task)), 0)
    return len(source.train_problem(0, 0, lambda key: True).question)


def missing(path: Path) -> Iterator[str]:
    """Tasks that have no result yet."""
    RESULTS.mkdir(exist_ok=True)
    have = read(path)
    yield from (task for task in tasks() if task not in have)


def keep(path: Path, row: dict[str, Any]) -> None:
    """Append one result and say it."""
    with path.open("a", encoding="utf-8") as file:
        print(json.dumps(row, ensure_ascii=False), file=file, flush=True)
    print(json.dumps(row, ensure_ascii=False)[:300], file=sys.stderr)


def unfit(row: dict[str, Any]) -> str:
    """Why a task cannot be trained on unchanged; empty if it can."""
    reasons: dict[str, list[str]] = {}
    for setting, found in row["settings"].items():
        if "error" in found:
            why = found["error"]
        elif found["without_gold"]:
            some = (
                "" if found["without_gold"] == found["n"] else f" for {found['without_gold']} of {found['n']} problems"
            )
            why = f"no gold answer{some}, so nothing shows that its checker accepts a right one"
        elif found["failing_number"]:
            first = found["failing"][0]
            why = f"{found['failing_number']} of {found['n']} gold answers fail: {first['gold']!r} gets {first['said']}"
        else:
            continue
        reasons.setdefault(why, []).append(setting)
    return "; ".join(f"{why} ({' and '.join(settings)})" for why, settings in reasons.items())


def table() -> str:
    """The page docs/reasoning-gym.md, from the recorded results."""
    from importlib import metadata

    from rethink.tasks.gym.scorers import who_judges

    gold_rows, rates = read(GOLD), read(RATES)
    bad = {task: reason for task in tasks() if (reason := unfit(gold_rows[task]))}
    lines = [
        HEAD.format(
            version=metadata.version("reasoning-gym"),
            tasks=len(tasks()),
            sandbox=", ".join(f"`{task}`" for task in tasks() if who_judges(task) == "sandbox"),
            fit=len(tasks()) - len(bad),
            gold=GOLD_PROBLEMS,
            problems=RATE_PROBLEMS,
            samples=SAMPLES,
        )
    ]
    lines += ["| task | why it is unfit |", "| --- | --- |", *(f"| `{task}` | {bad[task]} |" for task in bad)]
    lines += [
        "",
        "## Accuracy of the embedded model",
        "",
        RATES_HEAD.format(prompt=LONGEST_PROMPT, answer=LONGEST_ANSWER, problems=RATE_PROBLEMS, samples=SAMPLES),
    ]
    lines += ["| task | right | prompts solved sometimes | mean score |", "| --- | --- | --- | --- |"]
    measured = [row for row in rates.values() if "rate" in row]
    for row in sorted(measured, key=lambda row: (-row["rate"], -row["sometimes"], row["task"])):
        lines.append(f"| `{row['task']}` | {row['rate']:.2f} | {row['sometimes']:.2f} | {row['mean_score']:.2f} |")
    skipped = sorted((row["task"], row["skipped"]) for row in rates.values() if "skipped" in row)
    lines += ["", "Not sampled: " + (", ".join(f"`{task}` ({why})" for task, why in skipped) or "none") + "."]
    waiting = [task for task in tasks() if task not in rates]
    if waiting:
        lines += ["", "Not measured yet: " + ", ".join(f"`{task}`" for task in waiting) + "."]
    lines += levels_table()
    return "\n".join(lines)


HEAD = """\
# Tasks of reasoning-gym

Generated by `benchmarks/gym_survey.py table` from `benchmarks/results/`. Of reasoning-gym {version}, {tasks} tasks
can be used. `codeio` is refused, because generating its problems runs code that a model wrote. `composite` is
refused, because a recipe mixes tasks itself. [rewards.md](rewards.md#tasks-of-reasoning-gym) describes the checkers.
These tasks need the sandbox: {sandbox}.

## Gold answers

`benchmarks/gym_survey.py gold` scores {gold} gold answers of each task at the easiest setting (level 0 of its
curriculum, see below) and {gold} at the defaults, with the checker that training uses. If a task has many right answers
and no gold answer, the solution in its metadata is scored. {fit} tasks give full marks to all. The others are:
"""
RATES_HEAD = """\
SmolLM2-135M-Instruct at the easiest setting, {problems} problems, {samples} answers each at temperature 1
(`benchmarks/gym_survey.py rates`). The prompt shows one solved problem, and the model answers at once, without a
thought. `prompts solved sometimes` is the share with some right and some wrong answers; GRPO learns from these. A
task with few of them, and with a rate near 0, is too hard for this model without further training. With so few
samples the rate is only a rough guide. Guessing gives 0.50 on a yes-or-no task (`ransom_note`, `syllogism`). Tasks
with prompts over {prompt} or answers over {answer} tokens are not sampled.
"""
LEVELS_HEAD = """\
Level 0 is the start of a task's curriculum in the library. It is not always the easiest setting: if the default, in
brackets, is smaller, or if problems at the defaults are shorter, try the defaults first. The columns are: the
parameters of level 0, with the default in brackets if it differs; the highest value of each attribute in later
levels; the characters of a question at level 0 and at the defaults, mean of {problems}; the end of the first problem.
`rethink tasks NAME --option key=value --show 3` shows more.
"""


def main() -> None:
    warnings.filterwarnings("ignore")
    what = sys.argv[1] if len(sys.argv) == 2 else ""
    if what == "gold":
        gold()
    elif what == "rates":
        sampler = Sampler()
        for task in sorted(missing(RATES), key=question_length):
            try:
                row = sampler.rate(task)
            except Exception as error:
                row = {"task": task, "skipped": f"{type(error).__name__}: {error}"[:200]}
            keep(RATES, row)
    elif what == "levels":
        for task in missing(LEVELS):
            keep(LEVELS, levels(task))
    elif what == "table":
        print(table())
    else:
        sys.exit(inspect.getdoc(sys.modules[__name__]))


if __name__ == "__main__":
    main()
