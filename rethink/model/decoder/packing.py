"""Packed batches: one row holds what prompts share once, each prompt's rest once, then its completions; no padding.

    row:   what A and B begin with | rest of A | completion A1 | completion A2 | rest of B | completion B1 | ...

A completion's queries see the keys of its whole prompt and its own earlier tokens. Its last token is never an input:
nothing is predicted from it. The first token is predicted by the prompt's last one, whose hidden state all completions
share. Instructions and examples that every prompt of a recipe begins with are so computed once a row.

Axes: T input tokens of the row, C completion tokens (targets).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from rethink.kernels.attention import Segment, TreeLayout, tree_layout
from rethink.kernels.head import Kept
from rethink.kernels.trace import traced
from rethink.types import SamplingMask


@dataclass(frozen=True, slots=True)
class PackedGroup:
    """A prompt and its completions, as ids."""

    prompt_ids: Sequence[int]
    completions: Sequence[Sequence[int]]
    masks: Sequence[Sequence[bool]] | None = None
    """Which tokens of each completion are targets; None: all. The last one of a completion must be."""
    cuts: Sequence[SamplingMask] | None = None
    """By completion, what the distributions of its tokens are cut to; None: nothing. All tokens are targets then."""

    def targets(self, index: int) -> list[int]:
        """Places of the targets in completion number `index`."""
        size = len(self.completions[index])
        return list(range(size)) if self.masks is None else [i for i in range(size) if self.masks[index][i]]

    @property
    def input_tokens(self) -> int:
        """Most tokens that the forward pass computes; prompts with a shared prefix take fewer."""
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
    """Targets of each completion, in order; they add up to C."""
    groups: tuple[PackedGroup, ...] = ()
    """What was packed, for models that cannot read packed rows."""
    cut: Kept | None = None
    """What the distributions of the targets are cut to."""

    @property
    def input_tokens(self) -> int:
        """T."""
        return int(self.tokens_T.numel())

    @property
    def target_tokens(self) -> int:
        """C."""
        return int(self.targets_C.numel())


class _Node:
    """A node of the tree of prompts: the tokens that it adds to its parent's."""

    def __init__(self, ids: Sequence[int]):
        self.ids = list(ids)
        self.children: dict[int, _Node] = {}
        self.ends: list[int] = []
        """Groups whose prompt ends here."""


def _prompt_tree(groups: Sequence[PackedGroup]) -> _Node:
    """All prompts in one radix tree: each shared prefix is stored once."""
    root = _Node([])
    for index, group in enumerate(groups):
        if not len(group.prompt_ids):
            raise ValueError("a packed group needs at least one prompt token")
        node, rest = root, [int(t) for t in group.prompt_ids]
        while rest:
            child = node.children.get(rest[0])
            if child is None:
                child = node.children[rest[0]] = _Node(rest)
            common = next((i for i, (a, b) in enumerate(zip(child.ids, rest, strict=False)) if a != b), None)
            common = min(len(child.ids), len(rest)) if common is None else common
            if common < len(child.ids):  # they part within the node: cut it in two
                upper = node.children[rest[0]] = _Node(child.ids[:common])
                child.ids = child.ids[common:]
                upper.children[child.ids[0]] = child
                child = upper
            node, rest = child, rest[common:]
        node.ends.append(index)
    return root


@traced("packing")
def pack(groups: Sequence[PackedGroup], device: torch.device | str = "cpu") -> PackedBatch:
    """Lay groups out in one row, depth first over the tree of their prompts.

    Every prompt needs at least one token. Empty completions are allowed: they own no token and no target. Targets stay
    in the order of the groups, wherever their tokens are.
    """
    row = _Row(groups)
    tree = _prompt_tree(groups)
    for child in tree.children.values():
        row.add_node(child, None, 0)

    def as_tensor(values: list[int]) -> Tensor:
        return torch.tensor(values, dtype=torch.long, device=device)

    return PackedBatch(
        tokens_T=as_tensor(row.tokens),
        positions_T=as_tensor(row.positions),
        layout=tree_layout(row.segments, device),
        head_rows_C=as_tensor([r for rows in row.head_rows for r in rows]),
        targets_C=as_tensor([int(c[i]) for g in groups for n, c in enumerate(g.completions) for i in g.targets(n)]),
        lengths=tuple(len(g.targets(n)) for g in groups for n in range(len(g.completions))),
        groups=tuple(groups),
        cut=_cut(groups, device),
    )


def _cut(groups: Sequence[PackedGroup], device: torch.device | str) -> Kept | None:
    cuts = [cut for group in groups for cut in group.cuts or ()]
    if not cuts:
        return None
    if len(cuts) != sum(len(group.completions) for group in groups) or any(group.masks for group in groups):
        raise ValueError(
            "either all completions of a packed row have a sampling mask, and all tokens as targets, or none"
        )
    counts, ids = (
        np.concatenate(parts).astype(np.int64) for parts in zip(*((c.counts, c.ids) for c in cuts), strict=True)
    )
    return Kept(torch.from_numpy(counts).to(device), torch.from_numpy(ids).to(device))


class _Row:
    """The row as it grows."""

    def __init__(self, groups: Sequence[PackedGroup]):
        self.groups = groups
        self.tokens: list[int] = []
        self.positions: list[int] = []
        self.segments: list[Segment] = []
        self.head_rows: list[list[int]] = [[] for _ in groups]

    def add_node(self, node: _Node, parent: int | None, position: int) -> None:
        """A node of the prompt tree, the completions of the groups that end there, and the nodes below it."""
        own = self._add(node.ids, parent, position)
        last, behind = len(self.tokens) - 1, position + len(node.ids)
        for index in node.ends:
            for number, completion in enumerate(self.groups[index].completions):
                if not len(completion):
                    continue
                first = len(self.tokens)
                inputs = [int(t) for t in completion[:-1]]
                if inputs:
                    self._add(inputs, own, behind)
                rows = [last, *range(first, first + len(inputs))]
                self.head_rows[index] += [rows[i] for i in self.groups[index].targets(number)]
        for child in node.children.values():
            self.add_node(child, own, behind)
        self.segments[own] = dataclasses.replace(self.segments[own], end=len(self.tokens))

    def _add(self, ids: Sequence[int], parent: int | None, position: int) -> int:
        start = len(self.tokens)
        self.tokens.extend(ids)
        self.positions.extend(range(position, position + len(ids)))
        self.segments.append(Segment(start, len(ids), start + len(ids), position, parent))
        return len(self.segments) - 1
