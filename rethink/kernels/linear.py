"""Matrix products with weights laid out once for decoding, where the processor's library has such a layout."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

ROWS_HINT = 64
"""Batch size that the packed layout is chosen for; every batch size stays correct."""


class PackedLinear:
    """x @ weight.T + bias. bf16 on CPU: reordered by oneDNN, bit-equal to `F.linear`; elsewhere `F.linear` itself."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None):
        self._bias = None if bias is None else bias.detach()
        weight = weight.detach()
        self._packed: Tensor | None = None
        if weight.device.type == "cpu" and weight.dtype == torch.bfloat16 and torch.backends.mkldnn.is_available():
            self._packed = torch.ops.mkldnn._reorder_linear_weight(weight, ROWS_HINT)
        self._weight = weight

    def __call__(self, x_BI: Tensor) -> Tensor:
        """[B, I] -> [B, O]."""
        if self._packed is None:
            return F.linear(x_BI, self._weight, self._bias)
        result: Tensor = torch.ops.mkldnn._linear_pointwise(x_BI, self._packed, self._bias, "none", [], "")
        return result
