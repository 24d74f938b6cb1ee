"""Which weights sample which batch: a fixed lag, so that a run is the same however long anything takes.

The policy after training on batches 0 … b - 1 - lag samples batch b, and the one that the run starts with the first
lag + 1. Lag 0 is on-policy. With lag k, batch b + k may be sampled while batch b is trained on.
"""

from __future__ import annotations

from collections.abc import Container


def sampled_by(batch: int, lag: int) -> int:
    """How many batches the policy that samples a batch (from 0) has been trained on."""
    return max(0, batch - lag)


def batches_due(trained: int, lag: int) -> range:
    """Batches whose policy is there once `trained` batches were trained on, and that are still to be trained on."""
    return range(trained, trained + lag + 1)


def policies_needed(trained: int, lag: int, on_disk: Container[int]) -> set[int]:
    """By how many batches they were trained on: the policies of the due batches whose rollouts are not on disk."""
    return {sampled_by(batch, lag) for batch in batches_due(trained, lag) if batch not in on_disk}
