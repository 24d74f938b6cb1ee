"""How memory is taken from the system and given back."""

from __future__ import annotations

import ctypes
import platform
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

M_TRIM_THRESHOLD = -1
M_MMAP_THRESHOLD = -3
"""Parameters of glibc's mallopt(3)."""

MADV_HUGEPAGE = 14
"""Advice of Linux's madvise(2)."""
HUGE_PAGE = 2 << 20


def tune_allocator() -> bool:
    """Keep large freed blocks in the process instead of returning them to the system; True where it could be set.

    Training allocates the same large temporaries again and again. glibc maps each again and pays for every page; kept
    in the heap they are reused, which is worth more than a tenth of a step. The few above 32 MiB (logits, gradients
    of the embedding) stay mapped: in the heap they would leave holes that nothing else fits. Only glibc has these
    settings; elsewhere nothing changes. Call it before the first large allocation; calling it twice does no harm.
    """
    mallopt = _glibc_function("mallopt")
    if mallopt is None:
        return False
    mallopt.argtypes, mallopt.restype = (ctypes.c_int, ctypes.c_int), ctypes.c_int
    return all([mallopt(M_MMAP_THRESHOLD, 32 << 20), mallopt(M_TRIM_THRESHOLD, 2**31 - 1)])


def return_free_memory() -> None:
    """Give freed heap pages back to the system (glibc; elsewhere nothing happens).

    For the end of a stage, whose memory the next one does not reuse. Not between the phases of a step: they reuse each
    other's, and every page given back is faulted in again (a tenth of a GRPO step).
    """
    trim = _glibc_function("malloc_trim")
    if trim is not None:
        trim(0)


def ask_for_huge_pages(memory: torch.Tensor) -> None:
    """Ask Linux for 2 MiB pages under a tensor that stays (elsewhere nothing happens).

    Logits read across their rows touch a page for every row; with small pages the processor looks most of them up
    again.
    """
    advise, first = _glibc_function("madvise"), -(-memory.data_ptr() // HUGE_PAGE) * HUGE_PAGE
    size = (memory.data_ptr() + memory.nbytes - first) // HUGE_PAGE * HUGE_PAGE
    if advise is not None and size > 0:
        advise(ctypes.c_void_p(first), ctypes.c_size_t(size), MADV_HUGEPAGE)


def _glibc_function(name: str) -> Any:
    """A function of glibc, or None where the C library is another one or lacks it."""
    if platform.libc_ver()[0] != "glibc":
        return None
    try:
        return getattr(ctypes.CDLL(None), name)
    except (OSError, AttributeError):
        return None
