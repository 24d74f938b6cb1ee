"""Log-probabilities with alternatives: of tokens just drawn, and of given texts. V-wide logits live for a block only.

They are of the model itself, at temperature 1, whatever the sampling.

Axes: C tokens, B rows, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rethink.model.decoder.decoder import Decoder
from rethink.model.decoder.packing import PackedGroup, pack
from rethink.rollout.forward import PackedWeights

_ROWS = 64
"""Rows whose logits exist at once."""


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A token, its log-probability, and the most likely tokens in its place, best first."""

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...]


def token_logprobs_with_top(logits_BV: Tensor, tokens_B: Tensor, top: int) -> list[TokenLogprob]:
    """Of each row's token, with `top` alternatives."""
    logits_BV = logits_BV.to(torch.promote_types(logits_BV.dtype, torch.float32))
    total_B = logits_BV.logsumexp(-1)
    chosen = (logits_BV.gather(1, tokens_B[:, None])[:, 0] - total_B).tolist()
    values, ids = logits_BV.topk(min(top, logits_BV.shape[1]))
    values = values - total_B[:, None]
    return [
        TokenLogprob(token, logprob, tuple(zip(row_ids, row_values, strict=True)))
        for token, logprob, row_ids, row_values in zip(
            tokens_B.tolist(), chosen, ids.tolist(), values.tolist(), strict=True
        )
    ]


def score_texts(
    model: Decoder, packed: PackedWeights, texts: Sequence[Sequence[int]], top: int
) -> list[list[TokenLogprob]]:
    """Of every token but the first of each text, given those before it: one pass over all texts, packed in one row."""
    batch = pack([PackedGroup(ids[:1], [ids[1:]]) for ids in texts], model.device)
    with torch.no_grad():
        hidden_CE = model.hidden(batch)[batch.head_rows_C]
        found: list[TokenLogprob] = []
        for first in range(0, batch.target_tokens, _ROWS):
            rows = slice(first, first + _ROWS)
            found += token_logprobs_with_top(packed.head.exact(hidden_CE[rows]), batch.targets_C[rows], top)
    each, start = [], 0
    for size in batch.lengths:
        each.append(found[start : start + size])
        start += size
    return each
