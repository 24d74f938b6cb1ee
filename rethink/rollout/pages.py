"""Memory for keys and values of a generation: a budget of pages, who holds them, and prompts that begin alike.

A prompt's whole pages are shared by its samples, and with every prompt that begins with the same tokens. The page in
which a prompt ends is copied for each sample, since each goes on in it differently. A sample reserves the pages that
its longest completion would need before it starts, so that no sample is ever put off half-way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from rethink.kernels.paged import PAGE
from rethink.model.decoder.config import DecoderConfig
from rethink.types import GenerationRequest

DEFAULT_CONCURRENT = 128
"""Sequences decoded at once unless told otherwise: more gain little on a CPU."""


def bytes_per_page(config: DecoderConfig, dtype: torch.dtype) -> int:
    """Bytes of a page's keys and values in all layers."""
    return PAGE * 2 * config.num_layers * config.num_kv_heads * config.head_dim * dtype.itemsize


def pages_of(positions: int) -> int:
    """Pages that so many positions take."""
    return -(-positions // PAGE)


def own_pages(request: GenerationRequest) -> int:
    """Pages that one sample needs beside its prompt's whole ones; its last token is never looked at."""
    prompt = len(request.prompt_ids)
    return pages_of(prompt + request.params.max_new_tokens - 1) - prompt // PAGE


def pages_needed(request: GenerationRequest) -> int:
    """Pages that must be there for one sample of a request to be generated at all."""
    return pages_of(len(request.prompt_ids)) + own_pages(request)


def table_of(request: GenerationRequest) -> int:
    """Pages of a sample's whole sequence."""
    return pages_of(len(request.prompt_ids) + request.params.max_new_tokens - 1)


@dataclass(frozen=True, slots=True)
class PoolPlan:
    """Size of a generation."""

    pages: int
    sequences: int
    """Sequences decoded at once at most."""
    table: int
    """Pages of the longest sequence."""


def plan_pool(
    requests: Sequence[GenerationRequest],
    config: DecoderConfig,
    dtype: torch.dtype,
    budget_bytes: int,
    max_concurrent: int | None,
) -> PoolPlan:
    """As many pages as could be needed at once, or as the budget allows; one sequence of each request must fit."""
    sequences = min(max_concurrent or DEFAULT_CONCURRENT, sum(r.n for r in requests))
    # Every running sequence may be of the request that needs most, and every group's prompt be held.
    most = sum(pages_of(len(r.prompt_ids)) for r in requests) + sequences * max(own_pages(r) for r in requests)
    allowed = budget_bytes // bytes_per_page(config, dtype)
    return PoolPlan(min(most, allowed), sequences, max(table_of(r) for r in requests))


@dataclass(slots=True)
class PagePool:
    """Free pages, holders of the others, and which page holds which beginning of a prompt."""

    free: list[int]
    holders: dict[int, int] = field(default_factory=dict)
    known: dict[tuple[int, tuple[int, ...]], int] = field(default_factory=dict)
    """(page before, or -1; the page's tokens) -> page."""
    names: dict[int, tuple[int, tuple[int, ...]]] = field(default_factory=dict)

    @classmethod
    def of(cls, pages: int) -> PagePool:
        """All pages free."""
        return cls(list(range(pages))[::-1])

    def take(self) -> int:
        """A page with one holder."""
        page = self.free.pop()
        self.holders[page] = 1
        return page

    def hold(self, page: int) -> None:
        """One more holder."""
        self.holders[page] += 1

    def drop(self, pages: Sequence[int]) -> None:
        """One holder fewer; a page without any is free."""
        for page in pages:
            self.holders[page] -= 1
            if not self.holders[page]:
                del self.holders[page]
                self.free.append(page)
                name = self.names.pop(page, None)
                if name is not None:
                    del self.known[name]

    def shared_beginning(self, prompt_ids: Sequence[int]) -> list[int]:
        """Pages that already hold the prompt's beginning. Its last token is never among them: its logits are needed."""
        found: list[int] = []
        for first in range(0, (len(prompt_ids) - 1) // PAGE * PAGE, PAGE):
            page = self.known.get((found[-1] if found else -1, tuple(prompt_ids[first : first + PAGE])))
            if page is None:
                break
            found.append(page)
        return found

    def take_prompt(self, prompt_ids: Sequence[int]) -> tuple[list[int], int]:
        """Pages for a prompt, shared where they can be, and how many of its tokens are in them already.

        The others are known from now on: they must be filled before a later prompt's rows are computed, or with them.
        """
        pages = self.shared_beginning(prompt_ids)
        for page in pages:
            self.hold(page)
        cached = len(pages) * PAGE
        for first in range(cached, len(prompt_ids), PAGE):
            page = self.take()
            tokens = tuple(prompt_ids[first : first + PAGE])
            name = (pages[-1] if pages else -1, tokens)
            if len(tokens) == PAGE and name not in self.known:
                self.known[name], self.names[page] = page, name
            pages.append(page)
        return pages, cached
