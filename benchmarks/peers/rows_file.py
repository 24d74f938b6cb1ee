"""Files of rows that peers and Rethink read: the same rows for the same seed."""

import argparse
import json
import random
from collections.abc import Callable

SEED = 7


def write_rows(path: str, row: Callable[[random.Random], dict], rows: int, seed: int = SEED) -> None:
    """The first `rows` rows of a seed, as JSONL. `row`: makes the next one."""
    dice = random.Random(seed)
    with open(path, "w") as file:
        file.writelines(json.dumps(row(dice)) + "\n" for _ in range(rows))


def command(description: str | None, row: Callable[[random.Random], dict]) -> None:
    """Write the file that the command line names."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("path")
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--seed", type=int, default=SEED)
    a = parser.parse_args()
    write_rows(a.path, row, a.rows, a.seed)
