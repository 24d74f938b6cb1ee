"""The job of preferences, without any framework: rows of one prompt, a right and a wrong worked answer. Peers and
Rethink read the file that `write` makes.

    python benchmarks/peers/dpo_job.py ROWS.jsonl --rows 64
"""

import random

from rows_file import SEED, command, write_rows

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


def write(path: str, rows: int, seed: int = SEED) -> None:
    """The first `rows` rows of a seed."""
    write_rows(path, row, rows, seed)


if __name__ == "__main__":
    command(__doc__, row)
