"""How trainer ranks share the steps on preferences: a lane of examples as arrays, and what is computed of it."""

from __future__ import annotations

from itertools import islice
from typing import Any

import numpy as np

from rethink.kinds.preference.update import Lane, StepStats, accumulate_gradients
from rethink.kinds.sft.wire import build
from rethink.model.decoder.packing import PackedGroup
from rethink.runs.lanes import Arrays, Lanes, ragged, rows_of


def pack(lane: Lane) -> Arrays:
    """See `Lanes.pack`."""
    arrays: dict[str, np.ndarray[Any, Any]] = {
        "counted": np.array([lane.counted], np.int64),
        "kl": np.array([lane.kl], np.float64),
        "answers": np.array([len(group.completions) for group in lane.groups], np.int64),
        **ragged("prompts", [group.prompt_ids for group in lane.groups], np.int32),
        **ragged("tokens", [answer for group in lane.groups for answer in group.completions], np.int32),
    }
    if lane.reference is not None:
        arrays |= ragged("reference", lane.reference, np.float64)
    if lane.labels is not None:
        arrays["labels"] = np.array(lane.labels, np.bool_)
    return arrays


def unpack(arrays: Arrays) -> Lane:
    """Inverse of `pack`."""
    each = iter([row.tolist() for row in rows_of(arrays, "tokens")])
    prompts = [row.tolist() for row in rows_of(arrays, "prompts")]
    sizes = arrays["answers"].tolist()
    return Lane(
        [PackedGroup(prompt, list(islice(each, size))) for prompt, size in zip(prompts, sizes, strict=True)],
        int(arrays["counted"][0]),
        rows_of(arrays, "reference") if "reference" in arrays else None,
        arrays["labels"].tolist() if "labels" in arrays else None,
        float(arrays["kl"][0]),
    )


LANES = Lanes(build, accumulate_gradients, pack, unpack, StepStats)
