"""A DPO step: pairs a second beside TRL's DPOTrainer on the same rows, and GFLOP/s. 16 pairs a step, prompts of 20 to
80 tokens and answers of 40 to 450, SmolLM2-135M. Forward, backward and AdamW count; the first step warms up and does
not. The reference model's log-probabilities are computed before the first step, on both sides, and timed apart.

Only necessary work counts in GFLOP/s: 6 x block parameters x tokens in + 6 x head parameters x answer tokens.

    python benchmarks/dpo_step.py                                         ours alone
    python benchmarks/dpo_step.py --peer-python PATH/bin/python --json    beside TRL, bf16 weights, alternating
"""

import json
import sys
import tempfile
import time
from pathlib import Path

import common

PEERS = common.HERE / "peers"
RECIPE = """\
name: comparison-job
kind: preference
steps: {steps}
data: [{{path: {rows}}}]
algorithm: {{beta: {beta}}}
batch_size: {pairs}
max_tokens: {longest}
optimizer: {{schedule: constant}}
evaluation: {{share: 0}}
"""


def measure(a) -> None:
    """Our side, in a process of its own."""
    sys.path.insert(0, str(PEERS))
    import torch
    from dpo_job import BETA, MAX_TOKENS, PAIRS

    from rethink.kinds.preference.data import load_data
    from rethink.kinds.preference.loop import Side
    from rethink.kinds.preference.update import accumulate_gradients, answer_logprobs
    from rethink.kinds.reward_model.examples import step_places
    from rethink.machine.allocator import tune_allocator
    from rethink.machine.limits import peak_rss_mb, usable_threads
    from rethink.machine.speed import choose_dtype, measure_gemm
    from rethink.model.build import build_model
    from rethink.model.loading import load_checkpoint
    from rethink.recipe.recipe_files import parse_recipe
    from rethink.runs.optimizer import MasterAdamW

    tune_allocator()
    torch.set_num_threads(usable_threads())
    checkpoint = load_checkpoint("embedded")
    dtype = choose_dtype(measure_gemm())
    model = build_model(checkpoint, dtype, "cpu")
    text = RECIPE.format(steps=a.steps, rows=a.rows, pairs=PAIRS, longest=MAX_TOKENS, beta=BETA)
    recipe = parse_recipe(text, "the job")
    train = load_data(recipe, checkpoint.tokenizer, MAX_TOKENS).examples.train
    started = time.perf_counter()
    reference = answer_logprobs(model, [example.group for example in train], a.micro_batch_tokens)
    reference_s, side = time.perf_counter() - started, Side(train, (), reference)
    optimizer = MasterAdamW(model, recipe.optimizer)
    head = model.config.vocab_size * model.config.hidden_size
    blocks = sum(p.numel() for name, p in model.named_parameters() if p.ndim == 2) - head
    found: dict[str, list[float]] = {
        key: [] for key in ("step_s", "pairs_per_s", "gflops", "answer_tokens", "input_tokens", "loss")
    }
    for step in range(a.steps):
        started = time.perf_counter()
        (lane,) = side.lane(step_places(recipe, len(train), step, "preferences"), 0.0).lanes(1)
        stats = accumulate_gradients(recipe, model, None, lane, step, a.micro_batch_tokens)
        optimizer.step(recipe.optimizer.learning_rate)
        seconds = time.perf_counter() - started
        if not step:
            continue
        answers, tokens = stats.sums["tokens chosen"] + stats.sums["tokens rejected"], stats.sums["input tokens"]
        gflops = (6 * blocks * tokens + 6 * head * answers) / seconds / 1e9
        values = (seconds, PAIRS / seconds, gflops, answers, tokens, stats.metrics()["preference/loss"])
        for key, value in zip(found, values, strict=True):
            found[key].append(value)
    print(json.dumps({**found, "dtype": dtype, "reference_s": [reference_s], "peak_rss_mb": peak_rss_mb()}))


def peer_measurement(found: common.Measurement) -> common.Measurement:
    """TRL's numbers without its first step."""
    sys.path.insert(0, str(PEERS))
    from dpo_job import PAIRS

    steps = found["step_s"][1:]
    return {**found, "step_s": steps, "pairs_per_s": [PAIRS / seconds for seconds in steps]}


def main() -> None:
    parser = common.parser(__doc__, runs=2)
    parser.add_argument("--steps", type=int, default=4, help="steps of each run, the first one warm-up (default: 4)")
    parser.add_argument("--micro-batch-tokens", type=int, default=2048, help="as a run chooses")
    parser.add_argument("--weights", choices=["bfloat16", "float32"], default="bfloat16", help="of the peer")
    parser.add_argument("--peer-micro-batch", type=int, default=4, help="pairs in one pass of the peer (default: 4)")
    common.peak_option(parser)
    parser.add_argument("--rows", help="file of peers/dpo_job.py (default: made for the run)")
    parser.add_argument("--measure", action="store_true", help="one measurement of our side")
    a = parser.parse_args()
    if a.measure:
        measure(a)
        return
    with common.embedded_folder(wanted=bool(a.peer_python)) as folder, tempfile.TemporaryDirectory() as output:
        rows = a.rows or str(Path(output) / "rows.jsonl")
        if not a.rows:
            sys.path.insert(0, str(PEERS))
            import dpo_job

            dpo_job.write(rows, dpo_job.PAIRS * a.steps)
        ours = [
            sys.executable, __file__, "--measure", "--rows", rows, "--steps", a.steps,
            "--micro-batch-tokens", a.micro_batch_tokens,
        ]  # fmt: skip
        peer = [
            a.peer_python, PEERS / "trl_dpo.py", "--model", folder, "--rows", rows, "--steps", a.steps,
            "--weights", a.weights, "--micro-batch", a.peer_micro_batch, "--output", Path(output) / "trl",
        ]  # fmt: skip
        series = common.alternate(
            a.runs,
            lambda: common.run_json(ours),
            (lambda: peer_measurement(common.run_json(peer))) if a.peer_python else None,
        )
    common.show_peak(series, a)
    common.finish(
        "dpo_step", series, "pairs_per_s", a, unit="pairs/s", higher_is_better=True,
        also=["step_s", "gflops", "answer_tokens", "input_tokens", "loss", "reference_s", "peak_rss_mb"],
    )  # fmt: skip


if __name__ == "__main__":
    main()
