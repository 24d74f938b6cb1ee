"""A greedy evaluation on GSM8K in bf16: how many are right, and tokens a second, judging included.

python benchmarks/eval_gsm8k.py --model QWEN.gguf --data gsm8k_test.jsonl
python benchmarks/eval_gsm8k.py --model QWEN.gguf --data gsm8k_test.jsonl --peer-python PATH/bin/python --json

The first 64 problems, 400 tokens, as `rethink eval` asks and judges them; vLLM's CPU build in turns, where it is given.
"""

import sys
import tempfile
import time
from pathlib import Path

import common

sys.path.insert(0, str(common.HERE / "peers"))
from eval_job import INSTRUCTION, options


def measure(a) -> None:
    """Our side, in a process of its own. A short run over the same prompts comes first and is not counted."""
    import dataclasses
    import json

    from rethink.eval.backend import Wanted, open_backend
    from rethink.eval.benchmark_run import Overrides, make_plan, run_plan
    from rethink.eval.benchmarks.catalogue import find_benchmark
    from rethink.eval.benchmarks.problems import load_problems
    from rethink.eval.sample_files import SampleStore
    from rethink.machine.limits import peak_rss_mb

    benchmark = find_benchmark("gsm8k")
    assert benchmark.prompt.endswith(INSTRUCTION), "the benchmark's prompt is no longer the job's"
    backend = open_backend(a.model, "bfloat16")
    problems = load_problems(benchmark, a.data, a.limit)
    plan = make_plan(benchmark, "default", problems, str(a.data), backend, Overrides(1, 0.0, None, a.new_tokens))
    short = dataclasses.replace(plan.params, max_new_tokens=8)
    backend.answer([Wanted(question, (0,)) for question in plan.questions], short, lambda *_: None)
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        samples = run_plan(plan, backend, SampleStore(Path(folder)))
        seconds = time.perf_counter() - started
    tokens = sum(sample.tokens for sample in samples)
    line = {
        "tokens_per_s": tokens / seconds,
        "tokens": tokens,
        "prompt_tokens": sum(len(question.token_ids) for question in plan.questions),
        "right": sum(sample.score == 1.0 for sample in samples),
        "peak_rss_mb": peak_rss_mb(),
    }
    print(json.dumps(line))


def main() -> None:
    parser = options(common.parser(__doc__))
    parser.add_argument("--measure", action="store_true", help="one measurement of our side")
    a = parser.parse_args()
    if a.measure:
        measure(a)
        return
    job = ["--data", a.data, "--limit", a.limit, "--new-tokens", a.new_tokens]
    peer: list[str | Path] = []
    if a.peer_python:
        from rethink.model.loading import load_checkpoint

        folder = load_checkpoint(a.model).folder  # vLLM reads folders
        peer = [a.peer_python, common.HERE / "peers" / "vllm_eval.py", "--model", folder, *job]
    ours = [sys.executable, __file__, "--measure", "--model", a.model, *job]
    series = common.alternate(
        a.runs, lambda: common.run_json(ours), (lambda: common.run_json(peer)) if a.peer_python else None
    )
    also = ["right", "tokens", "prompt_tokens", "peak_rss_mb"]
    common.finish("eval_gsm8k", series, "tokens_per_s", a, unit="tokens/s", higher_is_better=True, also=also)


if __name__ == "__main__":
    main()
