"""Drawing tokens: inverse of the cumulative distribution, with counter-based randomness.

A draw depends on (seed of the sample, position in the completion) alone, never on what else is in the batch.

Axes: B sequences of the batch, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from rethink.kernels.native import ops

BLOCK = 64
"""Vocabulary entries summed together first, so that the search touches V/64 sums and one block."""
GREEDY_BELOW = 1e-5
"""Temperatures below are greedy: logits divided by them leave the range of fp32. The bound is vLLM's."""
_MASK = (1 << 64) - 1


def uniforms(seeds_B: Sequence[int], positions_B: Sequence[int]) -> np.ndarray:
    """Uniform fp64 numbers in (0, 1), one per (seed, position): SplitMix64 (Steele et al., 2014) of both."""
    with np.errstate(over="ignore"):
        state = np.array([s & _MASK for s in seeds_B], dtype=np.uint64)
        state = _mix(state) ^ (np.array(positions_B, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15))
        bits = _mix(state + np.uint64(0x9E3779B97F4A7C15))
    result: np.ndarray = ((bits >> np.uint64(11)).astype(np.float64) + 0.5) / 2.0**53
    return result


def _mix(z: np.ndarray) -> np.ndarray:
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: np.ndarray = z ^ (z >> np.uint64(31))
    return mixed


def sample(
    logits_BV: Tensor,
    temperature: float,
    top_p: float,
    top_k: int,
    uniforms_B: Tensor,
    masks: list[np.ndarray] | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Draw one token per row.

    Args:
        logits_BV: any float dtype.
        temperature: 0 takes the most likely token (the first of equals), and so does all below `GREEDY_BELOW`.
        top_p, top_k: nucleus mass and number of most likely tokens kept; 1 and 0 keep all. Top-k is applied first.
        uniforms_B: one number in (0, 1) per row.
        masks: where given, it gets the ids that each row was drawn from, rising.

    Returns:
        tokens [B]; log-probabilities [B] before truncation at the temperature (greedy: at temperature 1); and under
        the distribution that was sampled from (greedy: 0).
    """
    temperature = temperature if temperature >= GREEDY_BELOW else 0.0
    truncated = temperature > 0 and (top_p < 1.0 or top_k > 0)
    fast = logits_BV.dtype == torch.float32 and ops.usable(logits_BV) and logits_BV.stride(1) == 1
    if fast and not truncated and masks is None:
        tokens, logprobs = ops.sample(logits_BV, temperature, uniforms_B.double().contiguous())
        return tokens, logprobs, torch.zeros_like(logprobs) if temperature == 0 else logprobs.clone()
    scaled = logits_BV.to(torch.promote_types(logits_BV.dtype, torch.float32), copy=True)
    if temperature > 0 and temperature != 1.0:
        scaled /= temperature
    top = scaled.amax(dim=-1, keepdim=True)
    scaled -= top
    if temperature == 0:
        tokens = scaled.argmax(dim=-1)
        logprobs = -torch.exp(scaled).sum(-1).log()
        if masks is not None:
            masks += tokens[:, None].cpu().numpy().astype(np.int32)
        return tokens, logprobs, torch.zeros_like(logprobs)
    weights = torch.exp(scaled)
    log_total = weights.sum(-1).log()
    if truncated:
        tokens, log_kept = _draw_truncated(weights, top_p, top_k, uniforms_B, masks)
    else:
        tokens, log_kept = _draw(weights, uniforms_B), log_total
        if masks is not None:
            masks += [np.arange(weights.shape[1], dtype=np.int32)] * len(weights)
    chosen = scaled.gather(1, tokens[:, None])[:, 0]
    logprobs = chosen - log_total
    if fast:  # the same sum as in training, so that both log-probabilities agree to the bit
        ops.head_logprobs(logits_BV, tokens, temperature, logprobs, None, None)
    return tokens, logprobs, chosen - log_kept


def _draw(weights_BV: Tensor, uniforms_B: Tensor) -> Tensor:
    """Index drawn in proportion to the weights, by two searches: the block, then the entry within it."""
    b, v = weights_BV.shape
    blocks = -(-v // BLOCK)
    if blocks * BLOCK != v:
        weights_BV = torch.nn.functional.pad(weights_BV, (0, blocks * BLOCK - v))
    grid = weights_BV.view(b, blocks, BLOCK)
    cumulative = grid.sum(-1).double().cumsum(-1)
    target = uniforms_B.to(cumulative)[:, None] * cumulative[:, -1:]
    block = torch.searchsorted(cumulative, target).clamp_(max=blocks - 1)
    before = torch.where(block > 0, cumulative.gather(1, (block - 1).clamp(min=0)), 0.0)
    inside = grid.gather(1, block[:, :, None].expand(b, 1, BLOCK))[:, 0].double().cumsum(-1)
    entry = torch.searchsorted(inside, target - before, right=False).clamp_(max=BLOCK - 1)
    # Rounding may step past the last positive weight of the block; fall back to the nearest one before it.
    positive = inside > torch.nn.functional.pad(inside[:, :-1], (1, 0))
    last = torch.where(positive, torch.arange(BLOCK, device=inside.device), -1).amax(-1, keepdim=True)
    return (block * BLOCK + torch.minimum(entry, last.clamp(min=0)))[:, 0]


def _draw_truncated(
    weights_BV: Tensor, top_p: float, top_k: int, uniforms_B: Tensor, masks: list[np.ndarray] | None
) -> tuple[Tensor, Tensor]:
    """As `_draw` among the kept tokens; also the log of their total weight [B]."""
    ordered, index, total = _most_likely(weights_BV, top_p, top_k)
    if top_k > 0:
        ordered, index = ordered[:, :top_k], index[:, :top_k]
        total = ordered.double().sum(-1, keepdim=True)
    if top_p < 1.0:
        # A token stays while the mass before it is below top_p: the smallest set that reaches top_p.
        share = ordered.double() / total
        ordered = ordered * (share.cumsum(-1) - share < top_p)
    if masks is not None:
        rows = zip(ordered.cpu() > 0, index.cpu(), strict=True)
        masks += (np.sort(ids[kept].numpy()).astype(np.int32) for kept, ids in rows)
    place = _draw(ordered, uniforms_B)
    # In fp64, so that how many candidates another row of the batch has does not show.
    return index.gather(1, place[:, None])[:, 0], ordered.double().sum(-1).log().to(weights_BV.dtype)


def _most_likely(weights_BV: Tensor, top_p: float, top_k: int) -> tuple[Tensor, Tensor, Tensor]:
    """Weights in descending order (equal ones by their index) and indices [B, C], and totals [B, 1] in fp64.

    Only as many as top-k and top-p could keep: sorting a whole vocabulary costs several times what the model does. What
    weighs less than (1 - top_p) / V of the total is never in the nucleus: all such tokens together are below 1 - top_p.
    """
    b, v = weights_BV.shape
    total = weights_BV.sum(-1, keepdim=True, dtype=torch.float64)
    if top_k > 0:
        kept = weights_BV >= weights_BV.topk(min(top_k, v), sorted=False).values.amin(-1, keepdim=True)
    else:
        # Half of it, so that rounding cannot matter.
        kept = weights_BV > (total * ((1.0 - top_p) / (2 * v))).to(weights_BV.dtype)
    row, index = kept.nonzero(as_tuple=True)
    counts = kept.sum(-1)
    place = torch.arange(len(row), device=row.device) - (counts.cumsum(0) - counts)[row]
    candidates = weights_BV.new_zeros(b, int(counts.max()))
    indices = index.new_zeros(candidates.shape)
    candidates[row, place], indices[row, place] = weights_BV[row, index], index
    ordered, order = candidates.sort(dim=-1, descending=True, stable=True)
    return ordered, indices.gather(1, order), total
