"""Runs TRL's GRPOTrainer on the comparison job, in TRL's own environment; prints one JSON line last.

The job is that of `job.py` beside this file: two-term `chain_sum` problems, a one-example prompt, 8 prompts x 8
completions a step, temperature 1, no KL. This file imports nothing of Rethink: it runs under the peer's Python.
"""

import argparse
import json
import os
import resource

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from datasets import Dataset
from job import GROUP_SIZE, GROUPS, MAX_NEW_TOKENS, problems, render, score
from trl import GRPOConfig, GRPOTrainer
from trl_stopwatch import Stopwatch

ACCURACY: list[float] = []


def reward(completions, gold, **_):
    """Accuracy plus a fifth for the format, as our recipe of the job has it."""
    verdicts = [score(text, answer) for text, answer in zip(completions, gold, strict=True)]
    ACCURACY.append(sum(right for right, _ in verdicts) / len(verdicts))
    return [float(right) + 0.2 * float(shaped) for right, shaped in verdicts]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True, help="Hugging Face folder")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--learning-rate", type=float, default=1e-5)
    parser.add_argument("--weights", choices=["bfloat16", "float32"], default="bfloat16")
    parser.add_argument("--micro-batch", type=int, default=GROUPS * GROUP_SIZE, help="completions in one forward pass")
    parser.add_argument("--output", default="trl-output")
    a = parser.parse_args()
    rows = [{"prompt": render(q), "gold": g} for q, g in problems(GROUPS * (a.steps + 1))]
    config = GRPOConfig(
        output_dir=a.output, use_cpu=True, bf16=True, model_init_kwargs={"dtype": a.weights},
        per_device_train_batch_size=a.micro_batch, gradient_accumulation_steps=GROUPS * GROUP_SIZE // a.micro_batch,
        num_generations=GROUP_SIZE, max_completion_length=MAX_NEW_TOKENS, max_steps=a.steps,
        learning_rate=a.learning_rate, lr_scheduler_type="constant", temperature=1.0, beta=0.0,
        gradient_checkpointing=False, logging_steps=1, report_to=[], save_strategy="no",
    )  # fmt: skip
    watch = Stopwatch("reward", lambda: {"accuracy": ACCURACY[-1]})
    GRPOTrainer(
        model=a.model, reward_funcs=reward, args=config, train_dataset=Dataset.from_list(rows), callbacks=[watch]
    ).train()
    tokens = [round(log["completions/mean_length"] * GROUPS * GROUP_SIZE) for log in watch.logs]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(json.dumps({"system": "trl", "weights": a.weights, "step_s": watch.seconds, "completion_tokens": tokens,
                      "accuracy": ACCURACY, "reward": [float(log["reward"]) for log in watch.logs],
                      "peak_rss_mb": peak}))  # fmt: skip


if __name__ == "__main__":
    main()
