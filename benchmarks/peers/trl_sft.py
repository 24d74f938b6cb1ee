"""Runs TRL's SFTTrainer on the fine-tuning job, in TRL's own environment; prints one JSON line last.

Rows are those of a file that `sft_job.py` beside this file wrote; the loss is on completions only, the chat template is
the model's own. This file imports nothing of Rethink: it runs under the peer's Python.
"""

import argparse
import json
import os
import resource

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from datasets import Dataset
from sft_job import DOCUMENTS, MAX_TOKENS
from trl import SFTConfig, SFTTrainer
from trl_stopwatch import Stopwatch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True, help="Hugging Face folder")
    parser.add_argument("--rows", required=True, help="file of sft_job.py")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--learning-rate", type=float, default=5e-5)
    parser.add_argument("--weights", choices=["bfloat16", "float32"], default="bfloat16")
    parser.add_argument("--micro-batch", type=int, default=4, help="documents in one forward pass")
    parser.add_argument("--output", default="trl-output")
    a = parser.parse_args()
    with open(a.rows) as file:
        rows = [json.loads(line) for line in file]
    turns = [{"prompt": [{"role": "user", "content": row["prompt"]}],
              "completion": [{"role": "assistant", "content": row["completion"]}]} for row in rows]  # fmt: skip
    config = SFTConfig(
        output_dir=a.output, use_cpu=True, bf16=True, model_init_kwargs={"dtype": a.weights},
        per_device_train_batch_size=a.micro_batch, gradient_accumulation_steps=DOCUMENTS // a.micro_batch,
        max_length=MAX_TOKENS, max_steps=a.steps, learning_rate=a.learning_rate, lr_scheduler_type="constant",
        gradient_checkpointing=False, logging_steps=1, report_to=[], save_strategy="no",
    )  # fmt: skip
    watch = Stopwatch("loss")
    SFTTrainer(model=a.model, args=config, train_dataset=Dataset.from_list(turns), callbacks=[watch]).train()
    seen = [int(log["num_tokens"]) for log in watch.logs]  # real tokens so far: TRL counts its attention mask
    tokens = [now - before for before, now in zip([0, *seen], seen, strict=False)]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(json.dumps({"system": "trl", "weights": a.weights, "step_s": watch.seconds, "tokens": tokens,
                      "loss": [float(log["loss"]) for log in watch.logs], "peak_rss_mb": peak}))  # fmt: skip


if __name__ == "__main__":
    main()
