"""Tokens a second of the embedded engine: 64 sequences of 128 tokens from 4 prompts, at temperature 1.

python benchmarks/rollout.py                                           ours alone
python benchmarks/rollout.py --peer-python PATH/bin/python --json      beside vLLM's CPU build, alternating
python benchmarks/rollout.py --samples 32                              128 sequences
python benchmarks/rollout.py --distinct --samples 4 --prompt-tokens 4096 --new-tokens 256 --max-model-len 4608
                                                                       16 different prompts of 4,096 tokens
"""

import json
import sys
import time

import common

sys.path.insert(0, str(common.HERE / "peers"))
from rollout_job import options, prompts


def measure(a) -> None:
    """Our side, in a process of its own: the second of two runs counts."""
    from rethink.machine.limits import peak_rss_mb
    from rethink.machine.placement import Placement
    from rethink.rollout.engines import open_engine
    from rethink.types import GenerationRequest, SamplingParams

    opened = open_engine("embedded", Placement(device="cpu", kv_budget_bytes=2 << 30))
    engine, tokenizer = opened.engine, opened.checkpoint.tokenizer
    params = SamplingParams(temperature=1.0, max_new_tokens=a.new_tokens)  # no stop tokens: every sequence runs on
    each = 1 if a.distinct else a.samples
    for run in range(2):
        requests = [
            GenerationRequest(tuple(ids), tuple(range(run * 1000 + i * each, run * 1000 + (i + 1) * each)), params)
            for i, ids in enumerate(prompts(tokenizer.encode, a))
        ]
        started = time.perf_counter()
        groups = engine.generate(requests)
        seconds = time.perf_counter() - started
    tokens = sum(len(completion.token_ids) for group in groups for completion in group)
    print(json.dumps({"tokens_per_s": tokens / seconds, "tokens": tokens, "peak_rss_mb": peak_rss_mb()}))


def main() -> None:
    parser = options(common.parser(__doc__))
    parser.add_argument("--measure", action="store_true", help="one measurement of our side")
    a = parser.parse_args()
    if a.measure:
        measure(a)
        return
    job = ["--samples", a.samples, "--new-tokens", a.new_tokens, "--prompt-tokens", a.prompt_tokens]
    job += ["--max-model-len", a.max_model_len, *(["--distinct"] if a.distinct else [])]
    with common.embedded_folder(wanted=bool(a.peer_python)) as folder:
        peer = [a.peer_python, common.HERE / "peers" / "vllm_rollout.py", "--model", folder, *job]
        series = common.alternate(
            a.runs,
            lambda: common.run_json([sys.executable, __file__, "--measure", *job]),
            (lambda: common.run_json(peer)) if a.peer_python else None,
        )
    common.finish("rollout", series, "tokens_per_s", a, unit="tokens/s", higher_is_better=True, also=["peak_rss_mb"])


if __name__ == "__main__":
    main()
