"""Whether two run folders hold the same run, bit for bit, clocks aside."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rethink.kernels.native.library import native
from rethink.store.run_folder import RunFolder

CLOCKS = ("time/", "memory/", "rollout/tokens_per_s")
PLACES = ("cluster/", *(() if native() else ("policy/mismatch", "logprobs", "sampled_logprobs")))
"""What workers may change besides; more without native kernels, see docs/determinism.md."""


def same_run(one: Path, two: Path, aside: tuple[str, ...] = ()) -> None:
    """Assert it, part by part, so that a difference says where it is. `aside`: metrics and columns that may differ."""
    first, second = RunFolder.open(one), RunFolder.open(two)
    assert timeless(first, aside) == timeless(second, aside)
    assert first.batches() == second.batches()
    for batch in first.batches():
        rows = zip(first.rollout_rows(batch), second.rollout_rows(batch), strict=True)
        for a, b in rows:
            assert _without(a, ("seconds", *aside)) == _without(b, ("seconds", *aside)), f"batch {batch}"
    assert first.samples() == second.samples()
    for name in first.samples():
        assert first.read_samples(name) == second.read_samples(name)
    for relative in ("model/model.safetensors", "best/model.safetensors"):
        assert (one / relative).exists() == (two / relative).exists(), relative
        if relative.startswith("best/") and not (one / relative).exists():
            continue  # not every kind of run keeps its best model
        assert (one / relative).read_bytes() == (two / relative).read_bytes(), relative
    left, right = first.latest_checkpoint(), second.latest_checkpoint()
    assert left is not None
    assert right is not None
    assert left[0] == right[0]
    files = sorted(path.name for path in left[1].iterdir())
    assert files == sorted(path.name for path in right[1].iterdir())
    for file in files:
        assert (left[1] / file).read_bytes() == (right[1] / file).read_bytes(), file


def timeless(folder: RunFolder, aside: tuple[str, ...] = ()) -> list[dict[str, Any]]:
    """Metrics without what the clock decides, and what is set aside; as text, so that NaN equals NaN."""
    return [json.loads(json.dumps(_without(row, (*CLOCKS, *aside)))) for row in folder.metrics()]


def _without(row: dict[str, Any], starts: tuple[str, ...]) -> dict[str, Any]:
    return {key: value for key, value in row.items() if not key.startswith(starts)}
