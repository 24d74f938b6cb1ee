"""Every task of reasoning-gym: whether its gold answers get full marks, and how often the embedded model is right.

    .venv/bin/python benchmarks/gym_survey.py gold     # no model; a few minutes
    .venv/bin/python benchmarks/gym_survey.py rates    # with the embedded model; goes on where it stopped
    .venv/bin/python benchmarks/gym_survey.py table > docs/reasoning-gym.md

The easiest setting is level 0 of the task's own curriculum, or its defaults where it has none. The prompt shows one
solved problem of the same setting, answered at once in `<answer>` (the data hold no thoughts); the model answers at once
too, four times at temperature 1. Results are kept as JSON lines in benchmarks/results/.
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
GOLD_PROBLEMS, RATE_PROBLEMS, SAMPLES = 20, 12, 4
TASK_SECONDS = 120
LONGEST_PROMPT, LONGEST_ANSWER = 700, 96
"""Tokens; a task beyond them is not sampled, which the table says."""
INSTRUCTION = "{question}\nPut the answer between <answer> and </answer>."


def easiest(task: str) -> dict[str, Any]:
    """Parameters of level 0 of the task's curriculum; none (the defaults) where it has none that the task takes."""
    from reasoning_gym.coaching.base_curriculum import RangeAttributeDefinition
    from reasoning_gym.factory import CURRICULA

    from rethink.errors import TaskError
    from rethink.tasks.gym import make_dataset

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
    """All names; `composite` is no task of its own but a mixture of others."""
    from reasoning_gym.factory import DATASETS

    return sorted(set(DATASETS) - {"composite"})


# --- gold ----------------------------------------------------------------------------------------------------------


def gold(task: str) -> dict[str, Any]:
    """Score gold answers at the easiest and the default setting by the task's own checker, through `GymSource`."""
    from rethink.errors import TaskError
    from rethink.recipe.schema import TaskSource
    from rethink.tasks.gym import GymSource

    found: dict[str, Any] = {"task": task, "settings": {}}
    for name, params in (("easiest", easiest(task)), ("default", {})):
        started, right, failing = time.perf_counter(), 0, []
        try:
            source = GymSource(task, TaskSource(kind="reasoning-gym", name=task, params=params), 0)
            problems = [source.train_problem(i, 0, lambda key: True) for i in range(GOLD_PROBLEMS)]
        except TaskError as error:
            found["settings"][name] = {"error": str(error)[:300]}
            continue
        for problem in problems:
            try:
                said: Any = None if problem.answer is None else source.score(problem, problem.answer)
            except Exception as error:
                said = f"{type(error).__name__}: {error}"[:200]
            right += said == 1.0
            if said != 1.0:
                failing.append({"gold": str(problem.answer)[:100], "said": said})
        empty = [s for p in problems if (s := _try(source, p, "")) is not None and s > 0]
        found["settings"][name] = {
            "right": right,
            "n": len(problems),
            "failing": failing[:3],
            "empty_earns": max(empty, default=0.0),
            "seconds": round(time.perf_counter() - started, 2),
        }
    return found


def limited(task: str) -> dict[str, Any]:
    """`gold` in a process of its own, since some tasks take very long to make a problem."""
    fork = multiprocessing.get_context("fork")
    here, there = fork.Pipe(duplex=False)
    process = fork.Process(target=lambda: there.send(gold(task)))
    process.start()
    try:
        if here.poll(TASK_SECONDS):
            found: dict[str, Any] = here.recv()
            return found
        return {"task": task, "error": f"making {2 * GOLD_PROBLEMS} problems takes longer than {TASK_SECONDS} s"}
    finally:
        process.kill()
        process.join()


def _try(source: Any, problem: Any, answer: str) -> float | None:
    try:
        return float(source.score(problem, answer))
    except Exception:
        return None


# --- rates ---------------------------------------------------------------------------------------------------------


class Sampler:
    """The embedded model, one engine for all tasks."""

    def __init__(self) -> None:
        import torch

        from rethink.kernels.machine import choose_dtype, measure_gemm
        from rethink.model.build import build_model
        from rethink.model.loading import load_checkpoint
        from rethink.rollout.build import build_engine

        torch.set_num_threads(1)  # tasks are small, and others may use the machine
        self.checkpoint = load_checkpoint("embedded")
        model = build_model(self.checkpoint, choose_dtype(measure_gemm()), "cpu")
        self.engine = build_engine(model, self.checkpoint.tokenizer, kv_budget_bytes=2**29)

    def rate(self, task: str) -> dict[str, Any]:
        """Pass rates of one task at its easiest setting."""
        from rethink.model.chat import PromptRenderer
        from rethink.recipe.schema import Example, PromptSection, TaskSource
        from rethink.rewards.extract import extract_answer
        from rethink.tasks.gym import GymSource
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
        scores = [
            [_try(source, problem, extract_answer(c.text, "<answer>", "answer-tag") or "") or 0.0 for c in group]
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


def main() -> None:
    warnings.filterwarnings("ignore")
    what = sys.argv[1] if len(sys.argv) == 2 else ""
    if what == "gold":
        import reasoning_gym.factory  # noqa: F401 - once, before the processes fork

        for task in missing(GOLD):
            keep(GOLD, limited(task))
    elif what == "rates":
        sampler = Sampler()
        for task in missing(RATES):
            try:
                row = sampler.rate(task)
            except Exception as error:
                row = {"task": task, "skipped": f"{type(error).__name__}: {error}"[:200]}
            keep(RATES, row)
    elif what == "table":
        print(table())
    else:
        sys.exit(inspect.getdoc(sys.modules[__name__]))


if __name__ == "__main__":
    main()
