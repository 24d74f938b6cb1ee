"""Runs TRL's DPOTrainer on the job of preferences, in TRL's own environment; prints one JSON line last.

Rows are those of a file that `dpo_job.py` beside this file wrote; the chat template is the model's own. The reference
model's log-probabilities are computed before the first step (`precompute_ref_log_probs`), as Rethink does; with
`--reference-model`, by a second model in each step, TRL's default. This file imports nothing of Rethink: it runs under
the peer's Python.
"""

import argparse
import json
import os
import resource

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from datasets import Dataset
from dpo_job import BETA, MAX_TOKENS, PAIRS
from trl import DPOConfig, DPOTrainer
from trl_stopwatch import Stopwatch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True, help="Hugging Face folder")
    parser.add_argument("--rows", required=True, help="file of dpo_job.py")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--learning-rate", type=float, default=5e-7)
    parser.add_argument("--weights", choices=["bfloat16", "float32"], default="bfloat16")
    parser.add_argument("--micro-batch", type=int, default=4, help="pairs in one forward pass")
    parser.add_argument("--reference-model", action="store_true", help="keep the reference model (TRL's default)")
    parser.add_argument("--output", default="trl-output")
    a = parser.parse_args()
    with open(a.rows) as file:
        rows = [json.loads(line) for line in file]

    def turns(role: str, text: str) -> list[dict]:
        return [{"role": role, "content": text}]

    pairs = [{"prompt": turns("user", row["prompt"]), "chosen": turns("assistant", row["chosen"]),
              "rejected": turns("assistant", row["rejected"])} for row in rows]  # fmt: skip
    config = DPOConfig(
        output_dir=a.output, use_cpu=True, bf16=True, model_init_kwargs={"dtype": a.weights}, beta=BETA,
        per_device_train_batch_size=a.micro_batch, gradient_accumulation_steps=PAIRS // a.micro_batch,
        max_length=MAX_TOKENS, max_steps=a.steps, learning_rate=a.learning_rate, lr_scheduler_type="constant",
        precompute_ref_log_probs=not a.reference_model, gradient_checkpointing=False, logging_steps=1, report_to=[],
        save_strategy="no",
    )  # fmt: skip
    watch = Stopwatch("loss")
    DPOTrainer(model=a.model, args=config, train_dataset=Dataset.from_list(pairs), callbacks=[watch]).train()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(json.dumps({"system": "trl", "weights": a.weights, "step_s": watch.seconds,
                      "loss": [float(log["loss"]) for log in watch.logs], "peak_rss_mb": peak}))  # fmt: skip


if __name__ == "__main__":
    main()
