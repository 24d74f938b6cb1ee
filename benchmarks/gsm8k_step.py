"""Seconds of a GRPO step of a larger real model on GSM8K: 8 prompts x 8 completions of at most 300 tokens, by the
shipped recipe `zero-gsm8k`. The peer is Rethink itself on its torch references (`--reference`), what a step took
before the native kernels.

    python benchmarks/gsm8k_step.py --model MODEL.gguf --data gsm8k_train.jsonl
    python benchmarks/gsm8k_step.py --model MODEL.gguf --data gsm8k_train.jsonl --reference --steps 2 --runs 1 --json

DATA: lines with the keys `question` and `answer` (the number alone, or a solution with `####`).
"""

import json
import os
import sys
import tempfile
from pathlib import Path

import common


def measure(a) -> None:
    """Our side, in a process of its own."""
    from rethink.machine.allocator import tune_allocator

    tune_allocator()
    from rethink.kinds.grpo.run import train
    from rethink.observe.progress import make_progress
    from rethink.recipe.recipe_files import load_recipe
    from rethink.store.run_folder import RunFolder

    recipe = load_recipe("zero-gsm8k", [
        f"model.path={a.model}", "tasks.0.kind=jsonl", f"tasks.0.name={a.data}", "tasks.0.config=null",
        "tasks.0.held_out=null", "tasks.0.answer_format=auto", f"steps={a.steps}", "optimizer.warmup_steps=0",
        "evaluation={problems: 0}",
    ])  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        with open(os.devnull, "w") as quiet:
            summary = train(recipe, out, progress=make_progress("lines", stream=quiet))
        rows = RunFolder.open(out).metrics()[1:]
    print(json.dumps({
        "step_s": [row["time/step"] for row in rows],
        "rollout_s": [row["time/rollout"] for row in rows],
        "train_s": [row["time/train"] for row in rows],
        "completion_tokens": [row["rollout/tokens"] for row in rows],
        "s_per_1000_tokens": [1000 * row["time/step"] / row["rollout/tokens"] for row in rows],
        "accuracy": [row["rollout/accuracy"] for row in rows],
        "peak_rss_mb": summary["peak_rss_mb"],
    }))  # fmt: skip


def main() -> None:
    parser = common.parser(__doc__, runs=1)
    parser.add_argument("--model", required=True, help="GGUF file, Hugging Face folder or hub id")
    parser.add_argument("--data", required=True, metavar="JSONL", help="GSM8K's training problems")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--reference", action="store_true", help="beside the torch references, alternating")
    parser.add_argument("--measure", action="store_true", help="one measurement")
    a = parser.parse_args()
    if a.measure:
        measure(a)
        return
    job = [sys.executable, __file__, "--measure", "--model", a.model, "--data", a.data, "--steps", str(a.steps)]
    series = common.alternate(
        a.runs,
        lambda: common.run_json(job),
        (lambda: common.run_json(job, RETHINK_KERNELS="reference")) if a.reference else None,
    )
    common.finish(
        "gsm8k_step", series, "step_s", a, unit="s", higher_is_better=False,
        also=["s_per_1000_tokens", "completion_tokens", "rollout_s", "train_s", "peak_rss_mb"],
    )  # fmt: skip


if __name__ == "__main__":
    main()
