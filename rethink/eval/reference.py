"""`docs/benchmarks.md`, made from the registry: `python -m rethink.eval.reference > docs/benchmarks.md`."""

from __future__ import annotations

from rethink.eval.benchmark import PAPER_MAX_TOKENS, PAPER_TEMPERATURE, PAPER_TOP_P, Benchmark
from rethink.eval.registry import BENCHMARKS
from rethink.terminal import say

_HEAD = f"""\
# Benchmarks

Made by `make docs` from `rethink/eval/registry.py`. Sampling is the paper's everywhere (arXiv 2501.12948: temperature
{PAPER_TEMPERATURE:g}, top-p {PAPER_TOP_P:g}, at most {PAPER_MAX_TOKENS:,} tokens, or what the model's context leaves).
k is the paper's where it names one (AIME, GPQA, MATH-500, LiveCodeBench) and else 1. Every value can be overridden; see
[evaluation.md](evaluation.md).

Beside these: any reasoning-gym task by its name (`chain_sum`), scored by the task itself, and any JSONL file of yours
by its path, with keys `question` and `answer`, compared as mathematics.

`--data BENCH=PATH` reads a local JSONL file instead of the hub: rows with the hub's own columns, or with `question`,
`answer` (and `choices`, `test_list` … where the benchmark needs them). Data sets that give no commit here are read at
`main`: pin one with a local file where a number must stay comparable.
"""


def markdown() -> str:
    """The page."""
    lines = [_HEAD, "| name | data set @ revision, split | metric | k | grader |", "| --- | --- | --- | --- | --- |"]
    lines += [_row(benchmark) for benchmark in BENCHMARKS.values()]
    lines += ["", "## Prompts and notes", ""]
    prompts: dict[str, list[str]] = {}
    for benchmark in BENCHMARKS.values():
        prompts.setdefault(benchmark.prompt, []).append(benchmark.name)
    for prompt, names in prompts.items():
        lines += [f"{', '.join(names)}:", "", *(f"    {line}".rstrip() for line in prompt.split("\n")), ""]
    lines += [f"- {benchmark.name}: {benchmark.note}." for benchmark in BENCHMARKS.values() if benchmark.note]
    return "\n".join(lines)


def _row(benchmark: Benchmark) -> str:
    data = benchmark.data
    assert data is not None
    where = f"{data.id} @ {data.revision[:12]}"
    if data.files:
        where += f", {data.files[0]}" + (" …" if len(data.files) > 1 else "")
    else:
        where += f", {data.split}"
        configs = [config for config in data.configs if config]
        if configs:
            where += f" ({configs[0]})" if len(configs) == 1 else f" ({len(configs)} subjects)"
    return f"| {benchmark.name} | {where} | {benchmark.metric} | {benchmark.k} | {benchmark.grader.name} |"


if __name__ == "__main__":
    say(markdown())
