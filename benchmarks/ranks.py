"""Seconds of a training step that several one-core ranks share, against one process of one core on the same lanes: the
job of train_step.py, forward to update, exchange included. Both sides end in the same bits, which is checked.

    python benchmarks/ranks.py
    python benchmarks/ranks.py --ranks 4 --groups 16 --json
"""

import contextlib
import hashlib
import json
import sys
import time
from functools import partial

import common
from train_step import groups_of, job_options, job_words


def measure(a) -> None:
    """Two steps while memory is still taken, then three that count."""
    import torch

    from rethink.distributed.cluster import Cluster
    from rethink.distributed.rank_opening import on_ranks
    from rethink.kinds.grpo.update import MiniBatch, accumulate_gradients
    from rethink.kinds.grpo.wire import LANES
    from rethink.machine.allocator import tune_allocator
    from rethink.machine.limits import peak_rss_mb
    from rethink.machine.speed import choose_dtype, measure_gemm
    from rethink.model.build import build_model
    from rethink.model.loading import load_checkpoint
    from rethink.recipe.recipe_files import parse_recipe
    from rethink.runs.optimizer import apply_update
    from rethink.runs.rounds import shared_optimizer, train_lanes

    tune_allocator()
    torch.set_num_threads(1)
    checkpoint, dtype = load_checkpoint("embedded"), choose_dtype(measure_gemm())
    model = build_model(checkpoint, dtype, "cpu")
    recipe = parse_recipe("name: t\nsteps: 9\ntasks: [{kind: reasoning-gym, name: chain_sum}]\n", "the job")
    choices = {
        "device": "cpu", "dtype": dtype, "threads": 1, "lanes": a.lanes, "micro_batch_tokens": a.micro_batch_tokens
    }  # fmt: skip
    groups, seconds, exchange = MiniBatch(groups_of(a, model.config.vocab_size)), [], []
    with on_ranks(Cluster(workers=0, ranks=a.ranks)) if a.ranks > 1 else contextlib.nullcontext():
        optimizer = shared_optimizer(recipe, checkpoint, model, {}, choices)
        for step in range(5):
            started = time.perf_counter()
            compute = partial(accumulate_gradients, recipe, model, None, step=step, limit=a.micro_batch_tokens)
            train_lanes(optimizer, groups.lanes(a.lanes), compute, LANES, step)
            row = apply_update(optimizer, recipe.optimizer, step, recipe.steps)
            if step > 1:
                seconds.append(time.perf_counter() - started)
                exchange.append(row.get("time/exchange", 0.0))
    digest = hashlib.sha256()
    for _, weight in model.named_parameters():
        digest.update(weight.detach().view(-1).view(torch.uint8).numpy())
    print(json.dumps({
        "step_s": seconds, "exchange_s": exchange, "hash": digest.hexdigest(), "peak_rss_mb": peak_rss_mb()
    }))  # fmt: skip


def main() -> None:
    parser = common.parser(__doc__)
    job_options(parser)
    parser.add_argument("--ranks", type=int, default=2, help="on this side; the other has one")
    parser.add_argument("--lanes", type=int, default=2, help="on both sides")
    a = parser.parse_args()
    if a.measure:
        measure(a)
        return
    a.lanes = max(a.lanes, a.ranks)
    command = [sys.executable, __file__, "--measure", *job_words(a), f"--lanes={a.lanes}"]
    series = common.alternate(
        a.runs,
        lambda: common.run_json([*command, f"--ranks={a.ranks}"]),
        lambda: common.run_json([*command, "--ranks=1"]),
    )
    if len({one["hash"] for one in [*series.ours, *series.peer]}) != 1:
        raise SystemExit("the two sides end in different bits")
    common.finish(
        "ranks", series, "step_s", a, unit="s a step", higher_is_better=False, also=["exchange_s", "peak_rss_mb"]
    )


if __name__ == "__main__":
    main()
