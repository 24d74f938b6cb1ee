"""Greedy decoding in fp32 against `transformers.generate`, token for token, on prompts of GSM8K.

python benchmarks/greedy_parity.py --data gsm8k_test.jsonl                       the embedded model
python benchmarks/greedy_parity.py --data gsm8k_test.jsonl --model QWEN.gguf --json

Both sides read the same folder and continue the same ids. Where they part, the two tokens' log-probabilities under
`transformers`, given what both agree on, say whether it is a tie (within `--tie`): rounding then decides, not an error.
Ends with exit code 1 where a difference is no tie.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

BATCH = 10
"""Prompts that `transformers` continues at once."""


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="JSONL file of GSM8K's schema")
    parser.add_argument("--model", default="embedded", help="embedded, a folder or a GGUF file (default: embedded)")
    parser.add_argument("--limit", type=int, default=50, help="prompts (default: 50)")
    parser.add_argument("--new-tokens", type=int, default=128, help="most tokens of a completion (default: 128)")
    parser.add_argument("--tie", type=float, default=1e-4, help="nats between two tokens that count as equal")
    parser.add_argument("--json", action="store_true", help="end with one JSON line")
    return parser.parse_args()


def ours(checkpoint, prompts: list[tuple[int, ...]], stops: tuple[int, ...], new_tokens: int) -> list[list[int]]:
    """Greedy completions of the embedded engine."""
    from rethink.machine.placement import Placement
    from rethink.rollout.engines import open_engine
    from rethink.types import GenerationRequest, SamplingParams

    engine = open_engine(checkpoint, Placement(device="cpu", dtype="float32", kv_budget_bytes=2 << 30)).engine
    params = SamplingParams(temperature=0.0, max_new_tokens=new_tokens, stop_token_ids=stops)
    done = engine.generate([GenerationRequest(prompt, (0,), params) for prompt in prompts])
    return [[int(token) for token in completions[0].token_ids] for completions in done]


def theirs(model, prompts: list[tuple[int, ...]], stops: tuple[int, ...], new_tokens: int) -> list[list[int]]:
    """Greedy completions of `transformers`, of a few prompts at once: the shorter ones are padded in front."""
    import torch

    longest = max(map(len, prompts))
    ids = torch.tensor([[stops[0]] * (longest - len(prompt)) + list(prompt) for prompt in prompts])
    mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    out = model.generate(
        ids,
        attention_mask=mask,
        do_sample=False,
        num_beams=1,
        repetition_penalty=1.0,
        max_new_tokens=new_tokens,
        eos_token_id=list(stops),
        pad_token_id=stops[0],
    )
    rows = [[int(token) for token in row[longest:]] for row in out]
    ends = [next((i + 1 for i, token in enumerate(row) if token in stops), len(row)) for row in rows]
    return [row[:end] for row, end in zip(rows, ends, strict=True)]


def gap(model, prefix: list[int], a: int, b: int) -> float:
    """Nats between two tokens after a prefix, under `transformers`."""
    import torch

    with torch.inference_mode():
        logits = model(torch.tensor([prefix])).logits[0, -1].double()
    return abs(float(logits[a] - logits[b]))


def main() -> None:
    a = options()
    import torch
    import transformers

    from rethink.eval.benchmarks.catalogue import find_benchmark
    from rethink.eval.benchmarks.problems import load_problems
    from rethink.eval.benchmarks.prompting import prompt_section
    from rethink.machine.limits import usable_threads
    from rethink.model.loading import load_checkpoint
    from rethink.model.text.prompt import PromptRenderer

    torch.set_num_threads(usable_threads())
    benchmark = find_benchmark("gsm8k")
    checkpoint = load_checkpoint(a.model)
    stops = tuple(sorted(checkpoint.tokenizer.end_of_turn_ids))
    renderer = PromptRenderer(checkpoint.tokenizer, prompt_section(benchmark, "default"), 1 << 20)
    prompts = [renderer.render(problem).token_ids for problem in load_problems(benchmark, a.data, a.limit)]

    started = time.perf_counter()
    mine = ours(checkpoint, prompts, stops, a.new_tokens)
    print(f"ours: {sum(map(len, mine))} tokens in {time.perf_counter() - started:.1f} s", file=sys.stderr, flush=True)
    model = transformers.AutoModelForCausalLM.from_pretrained(checkpoint.folder, dtype=torch.float32).eval()
    equal, differences = 0, []
    for number, (prompt, found) in enumerate(zip(prompts, mine, strict=True)):
        if number % BATCH == 0:
            print(f"{number} of {len(prompts)} compared, {equal} equal", file=sys.stderr, flush=True)
            batch = theirs(model, prompts[number : number + BATCH], stops, a.new_tokens)
        wanted = batch[number % BATCH]
        place = next((i for i, (x, y) in enumerate(zip(found, wanted, strict=False)) if x != y), None)
        if place is None:
            # One is never a proper beginning of the other: both end at a stop token or at the same limit.
            assert len(found) == len(wanted), (number, len(found), len(wanted))
            equal += 1
        else:
            apart = gap(model, [*prompt, *wanted[:place]], found[place], wanted[place])
            differences.append({"prompt": number, "token": place, "gap": apart, "tie": apart <= a.tie})
            print(f"prompt {number} parts at token {place}: {apart:.2e} nats", file=sys.stderr, flush=True)
    wrong = sum(not difference["tie"] for difference in differences)
    print(f"{a.model}: {equal} of {len(prompts)} equal, {len(differences) - wrong} part at a tie, {wrong} do not")
    if a.json:
        line = {"name": "greedy_parity", "model": a.model, "prompts": len(prompts), "new_tokens": a.new_tokens}
        line |= {"tokens": sum(map(len, mine)), "equal": equal, "differences": differences, "wrong": wrong}
        print(json.dumps(line))
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
