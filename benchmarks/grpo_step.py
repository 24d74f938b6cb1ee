"""Seconds of a whole GRPO step (sampling, rewards, update) on the comparison job: 8 prompts x 8 completions of at most
96 tokens, SmolLM2-135M, no KL. The first step of a run warms up and does not count.

    python benchmarks/grpo_step.py                                         ours alone
    python benchmarks/grpo_step.py --peer-python PATH/bin/python --json    beside TRL, bf16 weights, alternating
    python benchmarks/grpo_step.py --peer-python … --weights float32       TRL with fp32 weights under bf16 autocast
    python benchmarks/grpo_step.py --steps 30 --runs 1                     a learning curve (accuracy of each step)
"""

import json
import os
import sys
import tempfile
from pathlib import Path

import common

PEERS = common.HERE / "peers"

RECIPE = """\
name: comparison-job
steps: {steps}
prompt: {{template: raw, instruction: {instruction}, prefill: "<think>"}}
tasks: [{{kind: python, name: "job:rows", params: {{number: {problems}}}}}]
rollout: {{prompts_per_batch: {groups}, group_size: {size}, max_new_tokens: {tokens}}}
reward:
  parts:
    - {{name: accuracy, function: "job:right"}}
    - {{name: format, weight: 0.2, function: "job:shaped"}}
optimizer: {{learning_rate: {rate}}}
evaluation: {{problems: 0}}
checkpoint: {{every: 1000000}}
"""


def measure(a) -> None:
    """Our side, in a process of its own."""
    sys.path.insert(0, str(PEERS))
    import job

    from rethink.machine.allocator import tune_allocator

    tune_allocator()
    from rethink.kinds.grpo.run import train
    from rethink.observe.progress import make_progress
    from rethink.recipe.recipe_files import parse_recipe
    from rethink.store.run_folder import RunFolder

    text = RECIPE.format(
        steps=a.steps, instruction=json.dumps(job.render("{question}").removesuffix("<think>")),
        problems=job.GROUPS * (a.steps + 1), groups=job.GROUPS, size=job.GROUP_SIZE, tokens=job.MAX_NEW_TOKENS,
        rate=a.learning_rate,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        with open(os.devnull, "w") as quiet:
            summary = train(parse_recipe(text, "the job"), out, progress=make_progress("lines", stream=quiet))
        rows = RunFolder.open(out).metrics()[1:]
    print(json.dumps({
        "step_s": [row["time/step"] for row in rows[1:]],
        "rollout_s": [row["time/rollout"] for row in rows[1:]],
        "train_s": [row["time/train"] for row in rows[1:]],
        "reward_share": [row["time/reward"] / row["time/step"] for row in rows[1:]],
        "completion_tokens": [row["rollout/tokens"] for row in rows],
        "s_per_1000_tokens": [1000 * row["time/step"] / row["rollout/tokens"] for row in rows[1:]],
        "accuracy": [row["rollout/accuracy"] for row in rows],
        "reward": [row["reward/mean"] for row in rows],
        "peak_rss_mb": summary["peak_rss_mb"],
    }))  # fmt: skip


def peer_measurement(found: common.Measurement) -> common.Measurement:
    """TRL's numbers without its first step, and per generated token."""
    steps, tokens = found["step_s"][1:], found["completion_tokens"][1:]
    per_token = [1000 * s / n for s, n in zip(steps, tokens, strict=False) if n]
    return {**found, "step_s": steps, "s_per_1000_tokens": per_token}


def main() -> None:
    parser = common.parser(__doc__, runs=2)
    parser.add_argument("--steps", type=int, default=4, help="steps of each run, the first one warm-up (default: 4)")
    parser.add_argument("--learning-rate", type=float, default=1e-5)
    parser.add_argument("--weights", choices=["bfloat16", "float32"], default="bfloat16", help="of the peer")
    parser.add_argument("--measure", action="store_true", help="one measurement of our side")
    a = parser.parse_args()
    if a.measure:
        measure(a)
        return
    job = ["--steps", a.steps, "--learning-rate", a.learning_rate]
    with common.embedded_folder(wanted=bool(a.peer_python)) as folder, tempfile.TemporaryDirectory() as output:
        peer = [
            a.peer_python,
            PEERS / "trl_grpo.py",
            "--model",
            folder,
            "--weights",
            a.weights,
            "--output",
            output,
            *job,
        ]
        series = common.alternate(
            a.runs,
            lambda: common.run_json([sys.executable, __file__, "--measure", *job]),
            (lambda: peer_measurement(common.run_json(peer))) if a.peer_python else None,
        )
    common.finish(
        "grpo_step", series, "step_s", a, unit="s", higher_is_better=False,
        also=["s_per_1000_tokens", "completion_tokens", "rollout_s", "train_s", "reward_share", "peak_rss_mb"],
    )  # fmt: skip


if __name__ == "__main__":
    main()
