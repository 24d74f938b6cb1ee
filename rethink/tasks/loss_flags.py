"""Keys by which rows and their messages say what is not to be trained on, as the data of other trainers have them.

    {"role": "assistant", "content": "…", "weight": 0}      OpenAI, mistral-finetune
    … "train": false, "training": false                     axolotl
    … "loss": false, "loss_mask": 0, "step_loss_mask": 0    ms-swift, verl, slime
    … "masked": true                                        torchtune

Such a key is honoured where it says yes or no, and refused where it says more (half a weight, a mask of tokens) or
where its name only looks like one: to ignore it would train on what the row excludes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from rethink.errors import TaskError

YES_MEANS_TRAINED = (
    "weight", "loss_weight", "loss", "loss_mask", "step_loss_mask", "train", "training", "trainable", "train_on_turn"
)  # fmt: skip
YES_MEANS_LEFT_OUT = ("masked", "ignore_loss", "no_loss")
ROW_FLAGS = ("weight", "loss_weight", "sample_weight", "loss_multiplier", "loss_mask", "train", "trainable", "masked")
"""Of a whole row: fewer, since rows carry other facts too (`loss` may be one that somebody measured)."""
_LOOKS_LIKE_ONE = re.compile(r"loss|mask|train|weight|learn|ignore", re.IGNORECASE)


def left_out_by(message: Mapping[str, Any], where: str) -> str | None:
    """The key by which an assistant's message says that it is not to be trained on; None where none does.

    Raises:
        TaskError: a key that looks like such a flag says neither yes nor no, or is not known.
    """
    found = None
    for key, value in message.items():
        if key in ("role", "content", "from", "value") or value is None or not _LOOKS_LIKE_ONE.search(str(key)):
            continue
        if key not in YES_MEANS_TRAINED and key not in YES_MEANS_LEFT_OUT:
            raise TaskError(
                f"{where}: the key `{key}` of an assistant's message looks like a flag for training, but it is "
                f"unknown. Use `weight` (0 or 1), or remove the key"
            )
        if _yes(value, key, where) == (key in YES_MEANS_LEFT_OUT):
            found = key
    return found


def refuse_left_out_row(row: Mapping[str, Any], where: str) -> None:
    """Raise TaskError where a row says of itself that it is not to be trained on, or only with a weight."""
    for key in ROW_FLAGS:
        value = row.get(key)
        if value is not None and _yes(value, key, where) == (key in YES_MEANS_LEFT_OUT):
            raise TaskError(f"{where} has `{key}: {str(value).lower()}`, so it is not to be trained on: remove the row")


def _yes(value: object, key: str, where: str) -> bool:
    if isinstance(value, bool | int | float) and value in (0, 1):
        return bool(value)
    raise TaskError(
        f"{where}: `{key}` is {str(value)[:60]!r}; only true, false, 1 and 0 are understood (a turn is trained on, or "
        "it is not). Change it, or remove the key"
    )
