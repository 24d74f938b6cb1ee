"""Rollout workers of one core each: tokens a second of two against one, and seconds until both sample new weights.

    python benchmarks/pool.py                          strong scaling: 128 sequences on both sides
    python benchmarks/pool.py --weak                   weak scaling: each worker has 64 sequences
    python benchmarks/pool.py --address HOST:PORT      on a Ray cluster that runs: two raylets, say

The ratio is per worker: 1 is perfect. `sync_s` is how much longer a token of new weights takes than one of old weights,
until every worker has drawn one.
"""

import hashlib
import json
import sys
import time

import common

sys.path.insert(0, str(common.HERE / "peers"))
from rollout_job import PROMPTS, options, prompts

SYNCS = 3


def measure(a) -> None:
    """One side, in a process of its own: the second of two runs counts, then `SYNCS` new versions."""
    import torch

    from rethink.distributed.cluster import Cluster
    from rethink.distributed.opening import on_cluster
    from rethink.distributed.watch import Onlooker
    from rethink.machine.placement import Placement
    from rethink.rollout.engines import open_engine
    from rethink.types import GenerationRequest, SamplingParams

    cluster = Cluster(address=a.address, workers=a.workers, threads=1, kv_budget_gb=2.0)
    params = SamplingParams(temperature=1.0, max_new_tokens=a.new_tokens)  # no stop tokens: every sequence runs on
    said = Onlooker(lambda text: print(text, file=sys.stderr))
    with on_cluster(cluster, said):
        opened = open_engine("embedded", Placement(device="cpu", threads=1, kv_budget_bytes=2 << 30, dtype=a.dtype))
        engine, ids_P = opened.engine, prompts(opened.checkpoint.tokenizer.encode, a)

        def draw(run: int, params: SamplingParams, each: int) -> tuple[float, list]:
            seeds = [tuple(range(run * 1000 + i * each, run * 1000 + (i + 1) * each)) for i in range(len(ids_P))]
            requests = [GenerationRequest(tuple(ids), seeds[i], params) for i, ids in enumerate(ids_P)]
            started = time.perf_counter()
            groups = engine.generate(requests)
            return time.perf_counter() - started, [one for group in groups for one in group]

        for run in range(2):
            seconds, completions = draw(run, params, a.samples)
        digest = hashlib.sha256(b"".join(one.token_ids.tobytes() for one in completions))
        tokens, sync = sum(len(one.token_ids) for one in completions), []
        short = SamplingParams(temperature=1.0, max_new_tokens=1)
        for version in range(1, SYNCS + 1):
            old, _ = draw(10 + version, short, 4)
            with torch.no_grad():
                for _, weight in opened.model.named_parameters():
                    weight.mul_(1.001)
            engine.publish(opened.model, version)
            new, _ = draw(20 + version, short, 4)
            sync.append(new - old)
    print(json.dumps({
        "tokens_per_s": tokens / seconds, "per_worker": tokens / seconds / a.workers, "tokens": tokens,
        "sync_s": sync, "hash": digest.hexdigest(),
    }))  # fmt: skip


def main() -> None:
    parser = options(common.parser(__doc__))
    parser.set_defaults(samples=32)
    parser.add_argument("--workers", type=int, default=2, help="on this side; the other has one")
    parser.add_argument("--weak", action="store_true", help="one worker has 1/workers of the sequences")
    parser.add_argument("--address", default="local", help="of a Ray cluster (default: start one here)")
    parser.add_argument("--dtype", default="auto", choices=["auto", "bfloat16", "float32"], help="of the model")
    parser.add_argument("--measure", action="store_true", help="one measurement of one side")
    a = parser.parse_args()
    if a.measure:
        measure(a)
        return
    command = [
        sys.executable, __file__, "--measure", "--new-tokens", a.new_tokens, "--prompt-tokens", a.prompt_tokens,
        "--address", a.address, "--dtype", a.dtype,
    ]  # fmt: skip
    alone = a.samples // a.workers if a.weak else a.samples
    series = common.alternate(
        a.runs,
        lambda: common.run_json([*command, f"--workers={a.workers}", f"--samples={a.samples}"]),
        lambda: common.run_json([*command, "--workers=1", f"--samples={alone}"]),
    )
    if not a.weak and a.dtype == "bfloat16" and len({one["hash"] for one in [*series.ours, *series.peer]}) != 1:
        raise SystemExit("one worker and several draw other completions")
    name = f"pool-{'weak' if a.weak else 'strong'}-{PROMPTS * a.samples}"
    common.finish(
        name, series, "per_worker", a, unit="tokens/s a worker", higher_is_better=True, also=["tokens_per_s", "sync_s"]
    )


if __name__ == "__main__":
    main()
