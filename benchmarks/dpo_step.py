"""A DPO step: pairs a second beside TRL's DPOTrainer on the same rows, and GFLOP/s. 16 pairs a step, prompts of 20 to
80 tokens and answers of 40 to 450, SmolLM2-135M. Forward, backward and AdamW count; the first step warms up and does
not. The reference model's log-probabilities are computed before the first step, on both sides, and timed apart.

Only necessary work counts in GFLOP/s: 6 x block parameters x tokens in + 6 x head parameters x answer tokens.

    python benchmarks/dpo_step.py                                         ours alone
    python benchmarks/dpo_step.py --peer-python PATH/bin/python --json    beside TRL, bf16 weights, alternating
"""

import json
import time

import common
from rows_step import compare, step_parser

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
    from dpo_job import PAIRS

    steps = found["step_s"][1:]
    return {**found, "step_s": steps, "pairs_per_s": [PAIRS / seconds for seconds in steps]}


def main() -> None:
    a = step_parser(__doc__, "dpo_job", "pairs").parse_args()
    if a.measure:
        measure(a)
        return
    from dpo_job import PAIRS

    series = compare(a, __file__, "dpo_job", PAIRS, "trl_dpo.py", peer_measurement)
    common.show_peak(series, a)
    common.finish(
        "dpo_step", series, "pairs_per_s", a, unit="pairs/s", higher_is_better=True,
        also=["step_s", "gflops", "answer_tokens", "input_tokens", "loss", "reference_s", "peak_rss_mb"],
    )  # fmt: skip


if __name__ == "__main__":
    main()
