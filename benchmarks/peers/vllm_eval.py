"""Runs vLLM's CPU build on the evaluation job, in vLLM's own environment; prints one JSON line last.

Greedy, bf16, all problems at once. A short run over the same prompts comes first and is not counted; what it left in
the prefix cache is dropped. This file imports nothing of Rethink.
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
    from eval_job import options, problems, right
    from vllm import LLM, SamplingParams

    a = options(argparse.ArgumentParser(description=__doc__)).parse_args()
    engine = LLM(model=a.model, dtype="bfloat16", max_model_len=1024 + a.new_tokens, max_num_seqs=128)
    render = engine.get_tokenizer().apply_chat_template
    job = problems(a)
    asked = []
    for turn, _ in job:
        ids = render([{"role": "user", "content": turn}], add_generation_prompt=True, return_dict=True)["input_ids"]
        asked.append({"prompt_token_ids": list(ids)})
    engine.generate(asked, SamplingParams(temperature=0.0, max_tokens=8), use_tqdm=False)
    engine.reset_prefix_cache()
    started = time.perf_counter()
    outputs = engine.generate(asked, SamplingParams(temperature=0.0, max_tokens=a.new_tokens), use_tqdm=False)
    seconds = time.perf_counter() - started
    tokens = sum(len(output.outputs[0].token_ids) for output in outputs)
    line = {
        "system": "vllm",
        "tokens_per_s": tokens / seconds,
        "tokens": tokens,
        "prompt_tokens": sum(len(prompt["prompt_token_ids"]) for prompt in asked),
        "right": sum(right(output.outputs[0].text, gold) for output, (_, gold) in zip(outputs, job, strict=True)),
        "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }
    print(json.dumps(line))


if __name__ == "__main__":
    main()
