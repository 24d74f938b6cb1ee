"""`rethink sample`: completions of one prompt."""

from __future__ import annotations

import argparse
import math
import sys
from typing import TYPE_CHECKING

from rethink.cli.arguments import Verbs, add_as_is, add_engine, print_json, real, verb, whole
from rethink.errors import UsageError
from rethink.terminal import say
from rethink.types import Completion, SamplingParams

if TYPE_CHECKING:
    from rethink.rollout.one_prompt import Answered
    from rethink.store.as_trained import AsTrained

EXAMPLES = """\
  rethink sample --model embedded "What is 3 + 4?"
  rethink sample --model runs/quickstart/model "Calculate 3 + 4 + 1."       asked as it was trained
  rethink sample --model runs/quickstart/model --as-is --n 4 "Who are you?"
  rethink sample --model Qwen/Qwen2.5-0.5B-Instruct --system "Answer briefly." --temperature 0 "Why is the sky blue?"
  echo "Once upon a time" | rethink sample --model embedded --raw -
"""
TEMPERATURE, MAX_NEW_TOKENS = 0.7, 256
"""Of a model that was not trained by a run of ours, or with `--as-is`."""


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
    parser.add_argument(
        "--temperature",
        type=real(0),
        metavar="T",
        help="0 is greedy (default: that of the run's evaluation for one completion; else 0.7)",
    )
    parser.add_argument(
        "--top-p", type=real(0, 1, open_low=True), default=1.0, metavar="P", help="nucleus (default: 1)"
    )
    parser.add_argument("--top-k", type=whole(0), default=0, metavar="K", help="0 keeps every token (default: 0)")
    parser.add_argument(
        "--max-new-tokens", type=whole(1), metavar="N", help="limit (default: that of the run's evaluation, else 256)"
    )
    parser.add_argument("--seed", type=whole(0), default=0, help="same seed, same completions (default: 0)")
    message = parser.add_mutually_exclusive_group()
    message.add_argument("--system", help="system message")
    message.add_argument("--raw", action="store_true", help="continue the prompt unchanged, without a chat template")
    add_as_is(parser)
    add_engine(parser)
    parser.add_argument("--json", action="store_true", help="one JSON object per completion")


def run(args: argparse.Namespace) -> int:
    """Generate and print."""
    prompt = sys.stdin.read() if args.prompt == "-" else args.prompt
    if not prompt:
        raise UsageError("The prompt is empty. Give a text, or - to read one from standard input.")

    from rethink.rollout.one_prompt import sample_text

    system = [] if args.system is None else [{"role": "system", "content": args.system}]

    answered = sample_text(
        args.model,
        prompt if args.raw else [*system, {"role": "user", "content": prompt}],
        seeds=range(args.seed, args.seed + args.n),
        params=lambda trained: params_of(args, trained),
        engine=args.engine,
        as_is=args.as_is,
    )
    for number, completion in enumerate(answered.completions, start=1):
        if args.json:
            print_json(as_json(answered, completion))
            continue
        if args.n > 1:
            say(f"--- {number} of {args.n}: {len(completion.token_ids)} tokens, {completion.finish_reason} ---")
        say(answered.turn(completion))
    return 0


def params_of(args: argparse.Namespace, trained: AsTrained | None) -> SamplingParams:
    """How completions are drawn: as the user says, else as the run's evaluation drew them, else by our defaults.

    Several completions of one prompt are drawn at a temperature above 0, since greedy ones are all the same.
    """
    of_run = trained.held_out if trained is not None else None
    temperature, limit = args.temperature, args.max_new_tokens
    if temperature is None:
        temperature = of_run.temperature if of_run is not None and args.n == 1 else TEMPERATURE
    if limit is None:
        limit = MAX_NEW_TOKENS if of_run is None else of_run.max_new_tokens
    return SamplingParams(
        temperature=temperature,
        top_p=args.top_p,
        top_k=args.top_k,
        max_new_tokens=limit,
        stop_strings=() if trained is None else trained.stop_strings,
    )


def as_json(answered: Answered, completion: Completion) -> dict[str, object]:
    """A completion for programs; `logprob` is the sum over its tokens, before top-p and top-k (null: unknown)."""
    logprob = float(completion.logprobs.sum())
    return {
        "prefill": answered.prompt.prefill,
        "text": completion.text,
        "answer": answered.answer(completion),
        "token_ids": completion.token_ids.tolist(),
        "tokens": len(completion.token_ids),
        "logprob": None if math.isnan(logprob) else logprob,
        "finish_reason": completion.finish_reason,
    }
