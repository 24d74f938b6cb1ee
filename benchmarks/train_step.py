"""Necessary operations a second of a training step: forward, backward and AdamW on 8 groups of 8 completions,
SmolLM2-135M, in GFLOP/s. Only necessary work counts: 6 x block parameters x tokens (a shared prompt once) + 6 x head
parameters x completion tokens. The machine's rate of matrix products is measured beside each step and shown, but is no
measure: it moves from minute to minute, and a share of it would move with it. `--peak-gflops` states one that does not.

    python benchmarks/train_step.py
    python benchmarks/train_step.py --prompt-tokens 200 --new-tokens 300 --json
"""

import json
import random
import sys
import time

import common


def groups_of(a, vocabulary: int) -> list:
    """Groups of rollouts of random tokens, the same for the same job."""
    import numpy as np

    from rethink.types import Completion, Problem, Prompt, Rollout

    dice = random.Random(0)

    def ids(size: int) -> list[int]:
        return [dice.randrange(100, vocabulary) for _ in range(size)]

    def rollout(prompt: Prompt) -> Rollout:
        size = dice.randrange(a.new_tokens // 4, a.new_tokens + 1)
        logprobs = np.full(size, -1.0, np.float32)
        completion = Completion(np.array(ids(size), np.int32), "", logprobs, logprobs, "stop")
        return Rollout(Problem("p", "t", "q", None), prompt, completion, {}, 0.0, dice.uniform(-1, 1))

    return [
        [rollout(prompt) for _ in range(a.group_size)]
        for prompt in (Prompt("", tuple(ids(a.prompt_tokens))) for _ in range(a.groups))
    ]


def measure(a) -> None:
    """One process: two steps while memory is still taken, then three that count, each beside the measured rate."""
    import torch

    from rethink.kinds.grpo.update import MiniBatch, accumulate_gradients
    from rethink.machine.allocator import tune_allocator
    from rethink.machine.limits import peak_rss_mb, usable_threads
    from rethink.machine.speed import choose_dtype, measure_gemm
    from rethink.model.build import build_model
    from rethink.model.loading import load_checkpoint
    from rethink.recipe.recipe_files import parse_recipe
    from rethink.runs.optimizer import MasterAdamW, apply_update

    tune_allocator()
    torch.set_num_threads(usable_threads())
    checkpoint = load_checkpoint("embedded")
    dtype = choose_dtype(measure_gemm())
    model = build_model(checkpoint, dtype, "cpu")
    recipe = parse_recipe("name: t\nsteps: 9\ntasks: [{kind: reasoning-gym, name: chain_sum}]\n", "the job")
    optimizer = MasterAdamW(model, recipe.optimizer)
    groups = groups_of(a, model.config.vocab_size)
    head = model.config.vocab_size * model.config.hidden_size
    blocks = sum(p.numel() for name, p in model.named_parameters() if p.ndim == 2) - head
    result: dict[str, list[float]] = {"gflops": [], "step_s": [], "gemm_gflops": []}
    for step in range(5):
        rate = measure_gemm()[dtype]
        started = time.perf_counter()
        stats = accumulate_gradients(recipe, model, None, MiniBatch(groups), step, a.micro_batch_tokens)
        apply_update(optimizer, recipe.optimizer, step, recipe.steps)
        seconds = time.perf_counter() - started
        flops = 6 * blocks * stats.input_tokens + 6 * head * stats.tokens
        if step > 1:
            rate = (rate + measure_gemm()[dtype]) / 2
            for key, value in zip(result, (flops / seconds / 1e9, seconds, rate), strict=True):
                result[key].append(value)
    print(json.dumps({
        **result, "input_tokens": stats.input_tokens, "target_tokens": stats.tokens, "peak_rss_mb": peak_rss_mb()
    }))  # fmt: skip


def job_options(parser) -> None:
    """Add the options that say what a step computes."""
    parser.add_argument("--groups", type=int, default=8)
    parser.add_argument("--group-size", type=int, default=8)
    parser.add_argument("--prompt-tokens", type=int, default=90)
    parser.add_argument("--new-tokens", type=int, default=96, help="longest completion; the shortest has a quarter")
    parser.add_argument("--micro-batch-tokens", type=int, default=2048, help="as a run chooses")
    parser.add_argument("--measure", action="store_true", help="one measurement")


def job_words(a) -> list[str]:
    """The same options of a measurement."""
    names = ("groups", "group_size", "prompt_tokens", "new_tokens", "micro_batch_tokens")
    return [f"--{name.replace('_', '-')}={getattr(a, name)}" for name in names]


def main() -> None:
    parser = common.parser(__doc__)
    job_options(parser)
    common.peak_option(parser)
    a = parser.parse_args()
    if a.measure:
        measure(a)
        return
    command = [sys.executable, __file__, "--measure", *job_words(a)]
    series = common.alternate(a.runs, lambda: common.run_json(command), None)
    common.show_peak(series, a)
    common.finish(
        "train_step", series, "gflops", a, unit="GFLOP/s of necessary work", higher_is_better=True,
        also=["step_s", "gemm_gflops", "input_tokens", "peak_rss_mb"],
    )  # fmt: skip


if __name__ == "__main__":
    main()
