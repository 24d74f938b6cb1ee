"""`rethink sample`: completions of one prompt."""

from __future__ import annotations

import argparse
import math
import sys

from rethink.cli.arguments import Verbs, add_engine, print_json, real, verb, whole
from rethink.errors import UsageError
from rethink.terminal import say
from rethink.types import Completion, SamplingParams

EXAMPLES = """\
  rethink sample --model embedded "What is 3 + 4?"
  rethink sample --model runs/quickstart/model --n 4 --seed 1 "What is 3 + 4?"
  rethink sample --model Qwen/Qwen2.5-0.5B-Instruct --system "Answer briefly." --temperature 0 "Why is the sky blue?"
  echo "Once upon a time" | rethink sample --model embedded --raw -
"""


def add_parser(verbs: Verbs) -> None:
    """Add the verb `sample`."""
    parser = verb(verbs, "sample", "generate completions of a prompt", EXAMPLES, run)
    parser.add_argument("prompt", help="the user's message; - reads it from standard input")
    parser.add_argument(
        "--model",
        default="embedded",
        metavar="M",
        help="embedded, a hub id, a folder or a GGUF file (default: embedded)",
    )
    parser.add_argument("--n", type=whole(1), default=1, help="completions (default: 1)")
    parser.add_argument("--temperature", type=real(0), default=0.7, metavar="T", help="0 is greedy (default: 0.7)")
    parser.add_argument(
        "--top-p", type=real(0, 1, open_low=True), default=1.0, metavar="P", help="nucleus (default: 1)"
    )
    parser.add_argument("--top-k", type=whole(0), default=0, metavar="K", help="0 keeps every token (default: 0)")
    parser.add_argument("--max-new-tokens", type=whole(1), default=256, metavar="N", help="limit (default: 256)")
    parser.add_argument("--seed", type=whole(0), default=0, help="same seed, same completions (default: 0)")
    message = parser.add_mutually_exclusive_group()
    message.add_argument("--system", help="system message")
    message.add_argument("--raw", action="store_true", help="continue the prompt unchanged, without a chat template")
    add_engine(parser)
    parser.add_argument("--json", action="store_true", help="one JSON object per completion")


def run(args: argparse.Namespace) -> int:
    """Generate and print."""
    prompt = sys.stdin.read() if args.prompt == "-" else args.prompt
    if not prompt:
        raise UsageError("The prompt is empty. Give a text, or - to read one from standard input.")

    from rethink.rollout.one_prompt import sample_text

    system = [] if args.system is None else [{"role": "system", "content": args.system}]

    params = SamplingParams(
        temperature=args.temperature, top_p=args.top_p, top_k=args.top_k, max_new_tokens=args.max_new_tokens
    )
    completions = sample_text(
        args.model,
        prompt if args.raw else [*system, {"role": "user", "content": prompt}],
        seeds=range(args.seed, args.seed + args.n),
        params=params,
        engine=args.engine,
    )
    for number, completion in enumerate(completions, start=1):
        if args.json:
            print_json(as_json(completion))
            continue
        if args.n > 1:
            say(f"--- {number} of {args.n}: {len(completion.token_ids)} tokens, {completion.finish_reason} ---")
        say(completion.text)
    return 0


def as_json(completion: Completion) -> dict[str, object]:
    """A completion for programs; `logprob` is the sum over its tokens, before top-p and top-k (null: unknown)."""
    logprob = float(completion.logprobs.sum())
    return {
        "text": completion.text,
        "token_ids": completion.token_ids.tolist(),
        "tokens": len(completion.token_ids),
        "logprob": None if math.isnan(logprob) else logprob,
        "finish_reason": completion.finish_reason,
    }
