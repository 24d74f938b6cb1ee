"""The evaluation job, without any engine: options, problems, prompt and a plain grader. Peers and Rethink read this."""

import argparse
import json
import re
from fractions import Fraction
from pathlib import Path

INSTRUCTION = r"Please reason step by step, and put your final answer within \boxed{}."


def options(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """The options of the job."""
    parser.add_argument("--data", type=Path, required=True, help="GSM8K test: JSONL with `question` and `answer`")
    parser.add_argument("--limit", type=int, default=64, help="the first so many problems (default: 64)")
    parser.add_argument("--new-tokens", type=int, default=400, help="most tokens of a completion (default: 400)")
    parser.add_argument("--model", required=True, help="a folder or a GGUF file (the peer: a folder)")
    return parser


def problems(a: argparse.Namespace) -> list[tuple[str, str]]:
    """(user turn, gold) of each problem."""
    with a.data.open(encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines if line.strip()][: a.limit]
    return [(f"{row['question']}\n{INSTRUCTION}", row["answer"].rpartition("####")[2].strip()) for row in rows]


def right(text: str, gold: str) -> bool:
    """Whether the last box holds the gold's number. For the peer alone: Rethink grades by its own grader."""
    boxes = re.findall(r"\\boxed\{([^{}]*)\}", text)
    return bool(boxes) and (found := _number(boxes[-1])) is not None and found == _number(gold)


def _number(text: str) -> Fraction | None:
    found = re.search(r"-?\d[\d,]{0,40}(?:\.\d{1,20})?", text)
    return Fraction(found.group().replace(",", "")) if found else None
