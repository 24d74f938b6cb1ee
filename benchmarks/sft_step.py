"""A fine-tuning step on packed documents: document tokens a second beside TRL's SFTTrainer on the same rows, and
GFLOP/s. 16 documents a step, 60 to 1,000 tokens each, SmolLM2-135M, loss on the completions. Forward, backward and
AdamW count; the first step warms up and does not.

Only necessary work counts in GFLOP/s: 6 x block parameters x tokens in + 6 x head parameters x trained tokens. The rate
of matrix products is measured beside each step and shown; it moves from minute to minute, so no share of it is given.

    python benchmarks/sft_step.py                                         ours alone
    python benchmarks/sft_step.py --peer-python PATH/bin/python --json    beside TRL, bf16 weights, alternating
"""

import json
import time

import common
from rows_step import compare, step_parser

RECIPE = """\
name: comparison-job
kind: sft
steps: {steps}
data: [{{path: {rows}}}]
batch_sequences: {documents}
max_tokens: {longest}
optimizer: {{schedule: constant}}
evaluation: {{share: 0}}
"""


def measure(a) -> None:
    """Our side, in a process of its own."""
    import torch
    from sft_job import DOCUMENTS, MAX_TOKENS

    from rethink.kinds.sft.data import load_data
    from rethink.kinds.sft.update import accumulate_gradients, lanes_of
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
    text = RECIPE.format(steps=a.steps, rows=a.rows, documents=DOCUMENTS, longest=MAX_TOKENS)
    recipe = parse_recipe(text, "the job")
    data = load_data(recipe, checkpoint.tokenizer, MAX_TOKENS)
    optimizer = MasterAdamW(model, recipe.optimizer)
    head = model.config.vocab_size * model.config.hidden_size
    blocks = sum(p.numel() for name, p in model.named_parameters() if p.ndim == 2) - head
    found: dict[str, list[float]] = {
        key: [] for key in ("step_s", "tokens_per_s", "gflops", "gemm_gflops", "tokens", "input_tokens", "loss")
    }
    for step in range(a.steps):
        rate = measure_gemm()[dtype]
        started = time.perf_counter()
        documents = data.batch(step, DOCUMENTS)
        stats = accumulate_gradients(recipe, model, None, *lanes_of(documents, 1), step, a.micro_batch_tokens)
        optimizer.step(recipe.optimizer.learning_rate)
        seconds = time.perf_counter() - started
        rate = (rate + measure_gemm()[dtype]) / 2
        if not step:
            continue
        gflops = (6 * blocks * stats.input_tokens + 6 * head * stats.tokens) / seconds / 1e9
        tokens = sum(len(document.token_ids) for document in documents)
        values = (seconds, tokens / seconds, gflops, rate, tokens, stats.input_tokens, stats.loss)
        for key, value in zip(found, values, strict=True):
            found[key].append(value)
    print(json.dumps({**found, "dtype": dtype, "peak_rss_mb": peak_rss_mb()}))


def peer_measurement(found: common.Measurement) -> common.Measurement:
    """TRL's numbers without its first step."""
    steps, tokens = found["step_s"][1:], found["tokens"][1:]
    return {
        **found,
        "step_s": steps,
        "tokens": tokens,
        "tokens_per_s": [n / s for n, s in zip(tokens, steps, strict=False)],
    }


def main() -> None:
    a = step_parser(__doc__, "sft_job", "documents").parse_args()
    if a.measure:
        measure(a)
        return
    from sft_job import DOCUMENTS

    series = compare(a, __file__, "sft_job", DOCUMENTS, "trl_sft.py", peer_measurement)
    common.show_peak(series, a)
    common.finish(
        "sft_step", series, "tokens_per_s", a, unit="document tokens/s", higher_is_better=True,
        also=["step_s", "gflops", "gemm_gflops", "tokens", "input_tokens", "loss", "peak_rss_mb"],
    )  # fmt: skip


if __name__ == "__main__":
    main()
