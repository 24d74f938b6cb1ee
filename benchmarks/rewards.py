"""Reward workers: 64 ordinary GSM8K completions, checkers that hang, start-up.

    python benchmarks/rewards.py [--data FILE.jsonl] [--json]

`--data` holds recorded solutions with `gold` and `response` (one JSON object a line); without it, made-up ones.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

from rethink.rewards.recorded import Keys, row_item
from rethink.rewards.reward_pool import RewardPool
from rethink.types import Completion, Problem, Prompt

Item = tuple[Problem, Prompt, Completion]
HANGS = {
    "sleeping": "import time\ndef score(problem, text):\n    if 'hang' in text: time.sleep(1000)\n    return 1\n",
    "computing": "def score(problem, text):\n    while 'hang' in text: pass\n    return 1\n",
}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--data", type=Path, help="recorded solutions: gold, response")
    options.add_argument("--json", action="store_true", help="end with one JSON line")
    args = options.parse_args()
    found: dict[str, float] = {}
    items = recorded(args.data) if args.data else [made_up(n) for n in range(64)]
    for name in ("math", "number"):
        part = {"name": name, "weight": 1, "builtin": name, "function": None, "params": {}}
        began = time.perf_counter()
        pool = RewardPool({"answer": "auto", "judges": {}, "parts": [part]}, [0])
        pool.submit(0, [made_up(1)]).result()
        found[f"{name}: start to the first score, s"] = time.perf_counter() - began
        found[f"{name}: 64 completions, warm, s"] = statistics.median(timed(pool, items) for _ in range(5))
        pool.close()
    for kind, code in HANGS.items():
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder, "hanging.py")
            file.write_text(code)
            part = {"name": "m", "weight": 1, "builtin": None, "function": f"{file}:score", "params": {}}
            pool = RewardPool({"answer": "auto", "judges": {}, "parts": [part]}, [0])
            pool.submit(0, [made_up(1)]).result()
            mixed = [made_up(n, "hang " * (n % 4 == 0)) for n in range(64)]
            found[f"64 completions of which 16 hang {kind}, limit 5 s, s"] = timed(pool, mixed)
            pool.close()
    for name, seconds in found.items():
        print(f"{seconds:8.3f}  {name}")
    if args.json:
        print(json.dumps(found))


def timed(pool: RewardPool, items: list[Item]) -> float:
    """Seconds until all are scored; every one that does not hang must be."""
    began = time.perf_counter()
    outcomes = [future.result()[0] for future in [pool.submit(0, [item]) for item in items]]
    taken = time.perf_counter() - began
    for item, outcome in zip(items, outcomes, strict=True):
        assert (outcome.score is None) == ("hang" in item[2].text), outcome
    return taken


def recorded(path: Path) -> list[Item]:
    """The first 64 rows."""
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()[:64]]
    return [row_item(row, number, Keys("gold", "response")) for number, row in enumerate(rows, 1)]


def made_up(number: int, text: str = "") -> Item:
    """A solution of a made-up problem."""
    text += f"First {number} and {number + 1} make {2 * number + 1}. " * 12 + f"The answer is {2 * number + 1}."
    return row_item({"gold": str(2 * number + 1), "response": text}, number, Keys("gold", "response"))


if __name__ == "__main__":
    main()
