"""Seeds: no two purposes share one, and rollouts and data keep those of the first runs."""

import hashlib
import re
from itertools import product
from pathlib import Path
from typing import get_args

import rethink
from rethink.seeds import Purpose, draw

SEEDS, NUMBERS, NAMES = range(2), range(12), ("chain_sum", "rows.jsonl", "general", "mixture", "sft")
PARTS = {
    "rollout": product(SEEDS, NUMBERS, NUMBERS, NUMBERS),
    "mini-batches": product(SEEDS, NUMBERS, NUMBERS),
    "critic mini-batches": product(SEEDS, NUMBERS, NUMBERS),
    "covariance": product(SEEDS, NUMBERS),
    "evaluation": product(SEEDS, NUMBERS, NUMBERS),
    "eval stage": product(SEEDS, NUMBERS, NUMBERS),
    "eval": product(SEEDS, ("math500", "aime"), NAMES, NUMBERS),
    "check": product(SEEDS, NUMBERS, NUMBERS),
    "source": [*product(SEEDS, NAMES, NUMBERS, [0, 1, 2, "epoch"]), *product(NAMES, ["held-out"])],
    "mixture": product(SEEDS, NUMBERS),
    "held-out": product(NAMES, NUMBERS),
    "held-out mixture": [()],
    "gpqa": product(NAMES),
    "samples": product(SEEDS, NAMES, NUMBERS, NUMBERS),
    "teacher": product(SEEDS, NAMES),
    "general": [*product(SEEDS, NAMES), *product(SEEDS, NUMBERS), *product(SEEDS, ["Who are you?"], NUMBERS)],
    "balance": product(SEEDS, NAMES),
    "order": product(SEEDS, NAMES, ["0f3a", "77be"]),
    "conversations": [
        *product(SEEDS, ["sft"], ["order"], NUMBERS, NUMBERS),
        *product(SEEDS, ["sft"], ["mixture"], NUMBERS),
    ],
    "reward model": product(SEEDS, NUMBERS),
    "replay": product(SEEDS),
    "preferences": [*product(SEEDS, NUMBERS), *product(SEEDS, ["kl"])],
    "round": product(SEEDS, NUMBERS),
}


def test_no_two_purposes_share_a_seed() -> None:
    assert set(PARTS) == set(get_args(Purpose))
    owners: dict[int, tuple[object, ...]] = {}
    for purpose in get_args(Purpose):
        for parts in PARTS[purpose]:
            number = draw(purpose, *parts)
            assert 0 <= number < 2**63
            assert number not in owners, f"{(purpose, *parts)} has the seed of {owners[number]}"
            owners[number] = (purpose, *parts)


def test_what_decides_hashes_of_models_is_as_it_was() -> None:
    def first(text: str) -> int:
        return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1

    assert draw("rollout", 3, 1, 4, 15) == first("3,1,4,15")
    assert draw("source", 3, "chain_sum", 9, 0) == first("3\x1fchain_sum\x1f9\x1f0")
    assert draw("held-out", "chain_sum", 9) == first("held-out\x1fchain_sum\x1f9")
    assert draw("mixture", 3, 9) == first("3\x1fmixture\x1f9")
    assert draw("conversations", 3, "sft", "order", 0, 1) == first("3\x1fsft\x1forder\x1f0\x1f1")
    assert draw("reward model", 3, 1) == first("3\x1freward model\x1f1")


def test_whatever_is_shuffled_is_seeded_by_a_purpose() -> None:
    for path in Path(rethink.__file__).parent.rglob("*.py"):
        for seed in re.findall(r"random\.Random\((.*)", path.read_text("utf-8")):
            assert seed.startswith(("draw(", "0)")), f"{path}: random.Random({seed}"
