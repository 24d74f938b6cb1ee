"""The fine-tuning job, without any framework: rows of one prompt and one worked answer. Peers and Rethink read the file
that `write` makes.

    python benchmarks/peers/sft_job.py ROWS.jsonl --rows 64
"""

import random

from rows_file import SEED, command, write_rows

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


def write(path: str, rows: int, seed: int = SEED) -> None:
    """The first `rows` rows of a seed."""
    write_rows(path, row, rows, seed)


if __name__ == "__main__":
    command(__doc__, row)
