"""Log-probabilities of the reference model, computed once, before the first step, and stored in the run's folder.

    RUN/reference/part-000000.parquet …   512 examples each: log-probability of each answer (the sum over its tokens),
                                          and what they were computed with

The reference model is the model at the start, so the policy itself computes them, and no second model is loaded. A part
that is there is read; one that is missing, damaged or of other inputs is computed again, with the same result.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from rethink.errors import RunFolderError
from rethink.kinds.preference.update import Values, answer_logprobs
from rethink.model.decoder.packing import PackedGroup
from rethink.model.language_model import LanguageModel
from rethink.store.rollout_files import read_rows, write_rows

FOLDER = "reference"
PART = 512
"""Examples of a part."""


def stored_logprobs(
    folder: Path,
    model: LanguageModel,
    groups: Sequence[PackedGroup],
    limit: int,
    made_with: Mapping[str, str],
    say: tuple[Callable[[int, int], None], Callable[[str], None]],
) -> list[Values]:
    """Log-probabilities [A] of the answers of each group under the model.

    Args:
        folder: of the run, locked.
        model: as it is at the start of the run.
        groups: prompts with answers, in a fixed order.
        limit: most tokens in one pass.
        made_with: what decides the values beside the groups: hashes, compute type.
        say: is told how many groups are done, of how many; and of damage.
    """
    progress, note = say
    found: list[Values] = []
    for number, first in enumerate(range(0, len(groups), PART)):
        part = groups[first : first + PART]
        path, identity = folder / FOLDER / f"part-{number:06d}.parquet", identity_of(made_with, part)
        values = _read(path, identity, len(part), note)
        if values is None:
            progress(first, len(groups))
            values = answer_logprobs(model, part, limit)
            rows = [{"example": first + i, "logprobs": v.tolist(), "made_with": identity} for i, v in enumerate(values)]
            path.parent.mkdir(exist_ok=True)
            write_rows(path, rows)
        found += values
    return found


def identity_of(made_with: Mapping[str, str], groups: Sequence[PackedGroup]) -> str:
    """SHA-256 (hex) of all that decides the log-probabilities of groups."""
    digest = hashlib.sha256(json.dumps(dict(made_with), sort_keys=True).encode())
    for group in groups:
        ids = [np.asarray(row, np.int32) for row in chain([group.prompt_ids], group.completions)]
        digest.update(np.array([len(row) for row in ids], np.int64).tobytes())
        digest.update(b"".join(row.tobytes() for row in ids))
    return digest.hexdigest()


def _read(path: Path, identity: str, number: int, note: Callable[[str], None]) -> list[Values] | None:
    """The values of a part; None where it has to be computed."""
    if not path.exists():
        return None
    try:
        rows: list[dict[str, Any]] = read_rows(path)
    except RunFolderError as error:
        note(f"{error} Its log-probabilities are computed again.")
        return None
    if len(rows) != number or any(row.get("made_with") != identity for row in rows):
        note(f"`{path}` is of another model or other examples. Its log-probabilities are computed again.")
        return None
    return [np.array(row["logprobs"], np.float64) for row in rows]
