"""The fine-tuning job, without any framework: rows of one prompt and one worked answer. Peers and Rethink read the file
that `write` makes.

    python benchmarks/peers/sft_job.py ROWS.jsonl --rows 64
"""

import argparse
import json
import random

DOCUMENTS = 16
"""Documents of a step."""
MAX_TOKENS = 1024


def row(dice: random.Random) -> dict:
    """A sum of many terms, worked out term by term: about 60 to 1,000 tokens."""
    terms = [dice.randrange(10, 100) for _ in range(round(4 * 2 ** dice.uniform(0, 3.6)))]
    total, lines = terms[0], []
    for term in terms[1:]:
        lines.append(f"{total} + {term} = {total + term}.")
        total += term
    thought = " ".join(lines)
    return {
        "prompt": f"Add these numbers one after the other: {', '.join(map(str, terms))}.",
        "completion": f"<think>{thought}</think>\n<answer>{total}</answer>",
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
