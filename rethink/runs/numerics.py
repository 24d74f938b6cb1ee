"""What every step of training checks of its numbers."""

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
            f"the loss of step {step + 1} is {value}, so no update was made; what was saved is untouched. Start "
            "anew with another --out and a lower optimizer.learning_rate, or with model.dtype=float32: these "
            "values are part of what a run is, and a resumed run keeps them"
        )
    return value
