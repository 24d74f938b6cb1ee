"""Packed batches: one row holds each group's prompt once, then its completions, with no padding.

    row:   prompt A | completion A1 | completion A2 | prompt B | completion B1 | ...

A completion's queries see the keys of its prompt and its own earlier tokens. Its last token is never an input: nothing
is predicted from it. The first token is predicted by the prompt's last one, whose hidden state all completions share.

Axes: T input tokens of the row, C completion tokens (targets), S segments.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rethink.kernels.attention import Bucket, PrefixSpan, TreeLayout

BUCKET_FILL = 0.7
"""Completions share a padded attention call while the shortest is at least this share of the longest."""


@dataclass(frozen=True, slots=True)
class PackedGroup:
    """A prompt and its completions, as ids."""

    prompt_ids: Sequence[int]
    completions: Sequence[Sequence[int]]

    @property
    def input_tokens(self) -> int:
        """Tokens that the forward pass computes."""
        return len(self.prompt_ids) + sum(max(len(c) - 1, 0) for c in self.completions)


@dataclass(frozen=True, slots=True)
class PackedBatch:
    """A micro-batch, ready for the decoder."""

    tokens_T: Tensor
    positions_T: Tensor
    layout: TreeLayout
    head_rows_C: Tensor
    """Index into T of the hidden state that predicts each target."""
    targets_C: Tensor
    lengths: tuple[int, ...]
    """Completion lengths, in order; they add up to C."""
    groups: tuple[PackedGroup, ...] = ()
    """What was packed, for models that cannot read packed rows."""

    @property
    def input_tokens(self) -> int:
        """T."""
        return int(self.tokens_T.numel())

    @property
    def target_tokens(self) -> int:
        """C."""
        return int(self.targets_C.numel())


def pack(groups: Sequence[PackedGroup], device: torch.device | str = "cpu") -> PackedBatch:
    """Lay groups out in one row.

    Every prompt needs at least one token. Empty completions are allowed: they own no token and no target.
    """
    tokens: list[int] = []
    positions: list[int] = []
    head_rows: list[int] = []
    targets: list[int] = []
    lengths: list[int] = []
    segments: list[tuple[int, int]] = []  # start and length of each completion's inputs, where it has any
    prefixes: list[PrefixSpan] = []
    for group in groups:
        if not len(group.prompt_ids):
            raise ValueError("a packed group needs at least one prompt token")
        start, size = len(tokens), len(group.prompt_ids)
        tokens.extend(int(t) for t in group.prompt_ids)
        positions.extend(range(size))
        first = len(tokens)
        for completion in group.completions:
            lengths.append(len(completion))
            if not len(completion):
                continue
            inputs = [int(t) for t in completion[:-1]]
            head_rows.append(start + size - 1)
            head_rows.extend(range(len(tokens), len(tokens) + len(inputs)))
            targets.extend(int(t) for t in completion)
            if inputs:
                segments.append((len(tokens), len(inputs)))
            tokens.extend(inputs)
            positions.extend(range(size, size + len(inputs)))
        prefixes.append(PrefixSpan(start, size, first, len(tokens) - first))

    def as_tensor(values: list[int]) -> Tensor:
        return torch.tensor(values, dtype=torch.long, device=device)

    return PackedBatch(
        tokens_T=as_tensor(tokens),
        positions_T=as_tensor(positions),
        layout=TreeLayout(tuple(prefixes), _buckets(segments, device)),
        head_rows_C=as_tensor(head_rows),
        targets_C=as_tensor(targets),
        lengths=tuple(lengths),
        groups=tuple(groups),
    )


def _buckets(segments: list[tuple[int, int]], device: torch.device | str) -> tuple[Bucket, ...]:
    """Completions of similar length, padded to the longest of their bucket for one attention call."""
    buckets: list[Bucket] = []
    rest = sorted(segments, key=lambda s: (-s[1], s[0]))
    while rest:
        longest = rest[0][1]
        taken = [s for s in rest if s[1] >= BUCKET_FILL * longest]
        rest = rest[len(taken) :]
        offsets = torch.arange(longest, device=device)
        starts = torch.tensor([s[0] for s in taken], device=device)
        sizes = torch.tensor([s[1] for s in taken], device=device)
        valid = offsets[None, :] < sizes[:, None]
        # Padding repeats the segment's last token: it comes after every real query, so causality hides it.
        index = starts[:, None] + torch.minimum(offsets[None, :], sizes[:, None] - 1)
        buckets.append(Bucket(index, None if bool(valid.all()) else valid))
    return tuple(buckets)
