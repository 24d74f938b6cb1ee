"""What a step that trains on given rows checks of its numbers."""

from __future__ import annotations

import math

from torch import Tensor

from rethink.errors import NumericsError


def finite_loss(loss: Tensor, step: int) -> float:
    """The loss as a number.

    Args:
        loss: of a micro-batch.
        step: 0-based update number, for the message.

    Raises:
        NumericsError: it is not finite; no update was made.
    """
    value = float(loss.detach())
    if not math.isfinite(value):
        raise NumericsError(
            f"the loss of step {step + 1} is {value}, so no update was made; the last checkpoint is sound. Start anew "
            "with a lower optimizer.learning_rate, or with model.dtype=float32"
        )
    return value
