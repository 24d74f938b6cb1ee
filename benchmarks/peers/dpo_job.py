"""The job of preferences, without any framework: rows of one prompt, a right and a wrong worked answer. Peers and
Rethink read the file that `write` makes.

    python benchmarks/peers/dpo_job.py ROWS.jsonl --rows 64
"""

import argparse
import json
import random

PAIRS = 16
"""Pairs of a step."""
MAX_TOKENS = 1024
BETA = 0.1


def worked(terms: list[int], wrong_at: int | None) -> str:
    """A sum term by term; with a slip at one of them."""
    total, lines = terms[0], []
    for place, term in enumerate(terms[1:]):
        made = total + term + (10 if place == wrong_at else 0)
        lines.append(f"{total} + {term} = {made}.")
        total = made
    return f"<think>{' '.join(lines)}</think>\n<answer>{total}</answer>"


def row(dice: random.Random) -> dict:
    """A sum of many terms: answers of about 40 to 450 tokens each."""
    terms = [dice.randrange(10, 100) for _ in range(round(4 * 2 ** dice.uniform(0, 3.0)))]
    return {
        "prompt": f"Add these numbers one after the other: {', '.join(map(str, terms))}.",
        "chosen": worked(terms, None),
        "rejected": worked(terms, dice.randrange(len(terms) - 1)),
    }


def write(path: str, rows: int, seed: int = 7) -> None:
    """The first `rows` rows of a seed."""
    dice = random.Random(seed)
    with open(path, "w") as file:
        file.writelines(json.dumps(row(dice)) + "\n" for _ in range(rows))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("path")
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--seed", type=int, default=7)
    a = parser.parse_args()
    write(a.path, a.rows, a.seed)
