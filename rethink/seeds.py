"""Every random number that depends on a seed: drawn for a named purpose, so that no two purposes share one."""

from __future__ import annotations

import hashlib
from typing import Literal

Purpose = Literal[
    "rollout",  # (seed, batch, prompt, sample): a completion to train on
    "mini-batches",  # (seed, batch, epoch): the order in which a batch's groups are trained on
    "critic mini-batches",  # (seed, batch, epoch): the order in which a critic is trained on them
    "covariance",  # (seed, step): which tokens Clip-Cov drops
    "evaluation",  # (seed, step, problem): a held-out completion during a run
    "eval stage",  # (seed, problem, sample): a completion of a stage `eval`
    "eval",  # (seed, benchmark, problem, sample): a completion of `rethink eval`
    "check",  # (seed, prompt, sample): a completion of `rethink check`
    "source",  # (seed, source, …) or (source, …): which problem, or the order of a file's rows
    "mixture",  # (seed, batch): from which sources a batch comes
    "held-out",  # (task, number): a held-out problem
    "held-out mixture",  # (): from which sources held-out problems come
    "gpqa",  # (question): the order of its options
    "samples",  # (seed, task, question, sample): a curated sample
    "teacher",  # (seed, sample): its rewriting
    "general",  # (seed, prompt or line): which are taken; (seed, prompt, number): an answer without reasoning
    "balance",  # (seed, sample): which of a task's samples go
    "order",  # (seed, task, sample): the order of curated samples
    "conversations",  # (seed, what, …): the order of conversations to train on
    "reward model",  # (seed, epoch): the order of pairs
    "replay",  # (seed): which earlier pairs are trained on again
    "preferences",  # (seed, epoch): the order of preferences; (seed, "kl"): which answers stand for others
    "round",  # (seed, round): the seed of an iteration's run
]
"""What a number is for, and its parts."""

_SEED_FIRST = (
    "mixture", "samples", "teacher", "general", "balance", "order", "reward model", "replay", "round",
)  # fmt: skip


def draw(purpose: Purpose, *parts: int | str) -> int:
    """A 63-bit number that depends on its purpose and on all of its parts, and on nothing else.

    What is hashed begins with the purpose, except where runs of before would come out otherwise.
    """
    words = [str(part) for part in parts]
    if purpose == "rollout":
        text = ",".join(words)
    elif purpose in ("source", "conversations"):
        text = "\x1f".join(words)
    else:
        place = 1 if purpose in _SEED_FIRST else 0
        text = "\x1f".join([*words[:place], purpose, *words[place:]])
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big") >> 1
