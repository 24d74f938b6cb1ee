"""Which version of the weights samples which batch: a fixed lag, so that a run is the same however long things take.

Version v is the policy after training on v batches. The version after batch b - 1 - lag samples batch b; lag 0 is
on-policy. With lag k, batch b + k is sampled while batch b is trained.
"""

from __future__ import annotations

from collections.abc import Container


def sampled_by(batch: int, lag: int) -> int:
    """The version that samples a batch (0-based). Version 0, which the run starts with, samples the first lag + 1."""
    return max(0, batch - lag)


def batches_due(trained: int, lag: int, batches: int) -> range:
    """Batches that may be sampled, or trained on, once `trained` of `batches` were trained."""
    return range(trained, min(trained + lag + 1, batches))


def versions_needed(trained: int, lag: int, batches: int, on_disk: Container[int]) -> list[int]:
    """Versions that a checkpoint after `trained` batches must hold.

    These are the current one and those that sample the batches whose rollouts are not on disk.
    """
    due = {sampled_by(b, lag) for b in batches_due(trained, lag, batches) if b not in on_disk}
    return sorted(due | {trained})
