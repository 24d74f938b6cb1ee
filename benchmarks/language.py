"""Language consistency: processor time per 1,000 characters, and the error on mixtures of sentences at known ratios.

.venv/bin/python benchmarks/language.py
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from rethink.rewards import language_reward
from tests.rewards.language_mixtures import SENTENCES, mean_errors

CHARACTERS = 10_000


def milliseconds(target: str, runs: int = 7) -> float:
    """Best of several runs, per 1,000 characters, without what an earlier run remembered."""
    text = (" ".join(SENTENCES[target]) * 20)[:CHARACTERS]
    best = float("inf")
    for _ in range(runs):
        language_reward._identify.cache_clear()
        started = time.process_time()
        language_reward.language_share(text, target)
        best = min(best, time.process_time() - started)
    return best * 1e3 / (CHARACTERS / 1000)


def main() -> None:
    language_reward.language_share("warm up 中文", "en")
    cost = {target: round(milliseconds(target), 3) for target in SENTENCES}
    for target, ms in cost.items():
        print(f"{target}: {ms:.3f} ms per 1,000 characters")
    between, within = mean_errors(per_pair=20)
    print(f"mean error between scripts {between:.4f}, between Latin-script languages {within:.4f}")
    print(json.dumps({"ms_per_1000": cost, "error_between_scripts": between, "error_within_latin": within}))


if __name__ == "__main__":
    main()
