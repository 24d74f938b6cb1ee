"""Runs vLLM's CPU build on the rollout job, in vLLM's own environment; prints one JSON line last.

4 prompts x `--samples` sequences of `--new-tokens` tokens each at temperature 1, end-of-turn ignored, log-probabilities
kept. The second of two runs counts. This file imports nothing of Rethink.
"""

import argparse
import json
import os
import resource
import time

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "2")
os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")


def main() -> None:
    from rollout_job import options, prompts
    from vllm import LLM, SamplingParams

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True, help="Hugging Face folder")
    a = options(parser).parse_args()
    engine = LLM(
        model=a.model, dtype="bfloat16", max_model_len=a.max_model_len, max_num_seqs=128,
        enable_prefix_caching=not a.distinct,
    )  # fmt: skip
    asked = prompts(engine.get_tokenizer().encode, a)
    params = SamplingParams(
        n=1 if a.distinct else a.samples, temperature=1.0, max_tokens=a.new_tokens, ignore_eos=True, logprobs=0
    )
    for _ in range(2):
        started = time.perf_counter()
        outputs = engine.generate([{"prompt_token_ids": ids} for ids in asked], params, use_tqdm=False)
        seconds = time.perf_counter() - started
    tokens = sum(len(completion.token_ids) for output in outputs for completion in output.outputs)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(json.dumps({"system": "vllm", "tokens_per_s": tokens / seconds, "tokens": tokens, "peak_rss_mb": peak}))


if __name__ == "__main__":
    main()
