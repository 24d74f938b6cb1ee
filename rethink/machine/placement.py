"""Where a model computes, and with what: one record for every verb that loads one."""

from __future__ import annotations

from dataclasses import dataclass, replace

from rethink.errors import RecipeError
from rethink.machine import allocator, limits, speed

KV_SHARE = 0.25
"""Share of the free memory that keys and values may take unless told otherwise."""


@dataclass(frozen=True, slots=True)
class Placement:
    """Threads, device, compute type and memory of a model in this process. What is left open is None or `auto`."""

    threads: int | None = None
    """Of torch; None: the cores that this process may use."""
    device: str = "auto"
    """`cpu` or `cuda`; `auto`: CUDA where torch has it."""
    dtype: str = "auto"
    """`bfloat16` or `float32`; `auto`: the faster one, measured. vLLM chooses by itself."""
    kv_budget_bytes: int | None = None
    """Most memory for keys and values; None: a quarter of what is free."""

    def decided(self) -> Placement:
        """The same with nothing left open. Torch's threads are set for the measurement.

        Raises:
            RecipeError: CUDA is asked for where there is none.
        """
        import torch

        check_device(self.device)
        device = self.device if self.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
        threads = self.threads or limits.usable_threads()
        torch.set_num_threads(threads)
        dtype = self.dtype if self.dtype != "auto" else speed.choose_dtype(speed.measure_gemm(device=device))
        budget = self.kv_budget_bytes
        if budget is None:
            budget = int(limits.free_memory(device) * KV_SHARE)
        return replace(self, threads=threads, device=device, dtype=dtype, kv_budget_bytes=budget)

    def apply(self) -> None:
        """Set what is global to the process: threads, allocator, exact products. Call it before large allocations."""
        import torch

        allocator.tune_allocator()
        if self.threads is not None:
            torch.set_num_threads(self.threads)
        if self.device == "cuda":
            torch.backends.cuda.matmul.allow_tf32 = False


def check_device(device: str) -> None:
    """Refuse a device that is not there.

    Raises:
        RecipeError: CUDA is asked for and torch has none.
    """
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        raise RecipeError(
            "`device` is `cuda`, but torch finds no CUDA device here. Write `device=auto` (or `cpu`) to compute on the "
            "processor, or install a torch with CUDA and its driver; `rethink doctor` shows what is found."
        )
