"""The rollout job, without any engine: options and prompts. Peers and Rethink both read this file."""

import argparse
from collections.abc import Callable

PROMPTS = 4


def options(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """The options of the job."""
    parser.add_argument("--samples", type=int, default=16, help="sequences of each of the 4 prompts (default: 16)")
    parser.add_argument("--new-tokens", type=int, default=128, help="tokens of each sequence (default: 128)")
    parser.add_argument("--prompt-tokens", type=int, default=0, help="pad prompts with running text to so many tokens")
    parser.add_argument("--max-model-len", type=int, default=1024, help="context that the engines are given")
    parser.add_argument("--distinct", action="store_true", help="every sequence has a prompt of its own")
    return parser


def prompts(encode: Callable[[str], list[int]], a: argparse.Namespace) -> list[list[int]]:
    """Token ids of every prompt."""
    found = []
    for i in range(PROMPTS * a.samples if a.distinct else PROMPTS):
        ids = list(encode(
            f"<|im_start|>user\nWhat is {i} + {i * 7 + 3}? Think step by step inside <think></think>, then give the "
            "answer inside <answer></answer>.<|im_end|>\n<|im_start|>assistant\n"
        ))  # fmt: skip
        padding = a.prompt_tokens - len(ids)
        if padding > 0:
            sentences = (f"On day {d} the {i + d}th ship carried {d * i + 3} boxes." for d in range(padding // 6 + 1))
            ids = list(encode(" ".join(sentences)))[:padding] + ids
        found.append(ids)
    return found
