"""What this machine can do: usable cores, measured GEMM rates, memory; and the defaults that follow.

Nothing here is assumed from a processor's name (`store.environment` reads that): the compute type follows from a
measurement, the thread count from what this process is allowed to use, the memory from the limits it runs under
(control groups included).
"""

from __future__ import annotations

import ctypes
import math
import os
import platform
import resource
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import torch

ComputeType = Literal["bfloat16", "float32"]

COMPUTE_TYPES: tuple[ComputeType, ...] = ("float32", "bfloat16")
"""Types that are measured, in order of preference when they are equally fast."""

BFLOAT16_GAIN = 1.25
"""bf16 rounds what fp32 keeps, so it is chosen only where it is faster by this factor."""

M_TRIM_THRESHOLD = -1
M_MMAP_THRESHOLD = -3
"""Parameters of glibc's mallopt(3)."""

MADV_HUGEPAGE = 14
"""Advice of Linux's madvise(2)."""
HUGE_PAGE = 2 << 20


@dataclass(frozen=True, slots=True)
class Memory:
    """Memory that this process may use, in bytes."""

    total: int
    """Installed memory or the control group's limit, whichever is smaller."""
    available: int
    """What could still be allocated now without swapping or meeting the limit."""
    limited: bool
    """Whether a control group's limit is what counts."""


# --- processor ---------------------------------------------------------------------------------------------------


def usable_threads(root: Path = Path("/")) -> int:
    """Threads that computing should use: physical cores that this process may run on, within its CPU quota.

    Two hardware threads of one core share its matrix units, so they count once. At least 1.
    """
    if hasattr(os, "sched_getaffinity"):
        allowed = os.sched_getaffinity(0)
    else:
        allowed = set(range(os.cpu_count() or 1))
    cores = {_siblings(cpu, root) for cpu in allowed}
    quota = _cpu_quota(root)
    threads = len(cores) if quota is None else min(len(cores), math.floor(quota))
    return max(1, threads)


def _siblings(cpu: int, root: Path) -> str:
    """A text that is equal for hardware threads of the same core."""
    return _read(root / f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list").strip() or str(cpu)


def _cpu_quota(root: Path) -> float | None:
    """CPUs' worth of time that the control groups grant, or None where they set no limit."""
    quotas: list[float] = []
    for folder in _cgroup_folders(root, "cpu"):
        limit, _, period = _read(folder / "cpu.max").partition(" ")  # version 2: "200000 100000" or "max 100000"
        if not limit:
            limit, period = _read(folder / "cpu.cfs_quota_us"), _read(folder / "cpu.cfs_period_us")
        if limit.strip().isdecimal() and period.strip().isdecimal() and int(period) > 0:
            quotas.append(int(limit) / int(period))
    return min(quotas, default=None)


# --- memory ------------------------------------------------------------------------------------------------------


def memory(root: Path = Path("/")) -> Memory:
    """Total and available memory, control-group limits (version 1 and 2) included."""
    import psutil

    machine = psutil.virtual_memory()
    total, available, limited = int(machine.total), int(machine.available), False
    for folder in _cgroup_folders(root, "memory"):
        limit = _number(folder / "memory.max") or _number(folder / "memory.limit_in_bytes")
        if limit is None or limit >= machine.total:  # version 1 writes a huge number for "no limit"
            continue
        used = _number(folder / "memory.current") or _number(folder / "memory.usage_in_bytes") or 0
        left = max(0, limit - max(0, used - _reclaimable(folder)))
        total, available, limited = min(total, limit), min(available, left), True
    return Memory(total=total, available=available, limited=limited)


def free_memory(device: str) -> int:
    """Bytes that can be taken on `cpu` or `cuda` now."""
    if device == "cpu":
        return memory().available
    import torch

    return int(torch.cuda.mem_get_info()[0])


def peak_rss_mb() -> float:
    """Largest resident memory of this process so far, in MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


def _reclaimable(folder: Path) -> int:
    """Bytes of file cache in a control group, which the kernel gives back under pressure."""
    for line in _read(folder / "memory.stat").splitlines():
        key, _, value = line.partition(" ")
        if key in ("inactive_file", "total_inactive_file") and value.strip().isdecimal():
            return int(value)
    return 0


def _cgroup_folders(root: Path, controller: str) -> list[Path]:
    """This process's control-group folders for a controller and all their parents, where limits may stand."""
    mount = root / "sys/fs/cgroup"
    folders: list[Path] = []
    for line in _read(root / "proc/self/cgroup").splitlines():
        if line.count(":") < 2:
            continue
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        base = mount / controller if controllers else mount
        group = base / path.lstrip("/")
        # Inside a container the path is often the host's and absent here: the mount itself is then the group.
        folders += [f for f in (group, *group.parents) if f.is_relative_to(base) and f.is_dir()]
    return list(dict.fromkeys(folders))


def _number(path: Path) -> int | None:
    text = _read(path).strip()
    return int(text) if text.isdecimal() else None


def _read(path: Path) -> str:
    """A system file's text; empty where there is none or it may not be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


# --- speed -------------------------------------------------------------------------------------------------------


def measure_gemm(
    compute_types: Sequence[ComputeType] = COMPUTE_TYPES,
    *,
    device: str = "cpu",
    rows: int = 1024,
    width: int = 768,
    seconds: float = 0.2,
) -> dict[ComputeType, float]:
    """Best observed rate of a [rows, width] @ [width, width] product in GFLOP/s, with torch's current thread count.

    The types take turns, so that a busy moment hurts all of them; the best of each is reported, since other load can
    only slow a product down. A small product goes first: a type so slow that the large one would take ten times
    `seconds` is judged by the small one alone.
    """
    import torch

    types = {name: getattr(torch, name) for name in compute_types}
    best = {name: _gemm_rate(dtype, device, 256, 256) for name, dtype in types.items()}
    flops = 2.0 * rows * width * width
    affordable = {name: dtype for name, dtype in types.items() if flops / (best[name] * 1e9) < 10 * seconds}
    operands = {name: _operands(dtype, device, rows, width) for name, dtype in affordable.items()}
    deadline = time.perf_counter() + seconds * len(operands)
    while operands and time.perf_counter() < deadline:
        for name, (left, right) in operands.items():
            best[name] = max(best[name], flops / _time_product(left, right, device) / 1e9)
    return best


def choose_dtype(measured: Mapping[ComputeType, float]) -> ComputeType:
    """The compute type for these rates (GFLOP/s): bf16 only where it is faster by `BFLOAT16_GAIN`."""
    fp32, bf16 = measured.get("float32", 0.0), measured.get("bfloat16", 0.0)
    return "bfloat16" if bf16 >= BFLOAT16_GAIN * fp32 and bf16 > 0 else "float32"


def _operands(dtype: torch.dtype, device: str, rows: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    import torch

    left = torch.ones(rows, width, dtype=dtype, device=device)
    return left, torch.ones(width, width, dtype=dtype, device=device)


def _gemm_rate(dtype: torch.dtype, device: str, rows: int, width: int) -> float:
    """GFLOP/s of a small product: the best of several within a tenth of a second (the first one also compiles)."""
    left, right = _operands(dtype, device, rows, width)
    times: list[float] = []
    while len(times) < 2 or (len(times) < 20 and sum(times) < 0.1):
        times.append(_time_product(left, right, device))
    return 2.0 * rows * width * width / min(times) / 1e9


def _time_product(left: torch.Tensor, right: torch.Tensor, device: str) -> float:
    import torch

    start = time.perf_counter()
    left @ right
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    return max(time.perf_counter() - start, 1e-9)


# --- allocator ---------------------------------------------------------------------------------------------------


def tune_allocator() -> bool:
    """Keep large freed blocks in the process instead of returning them to the system; True where it could be set.

    Training allocates the same large temporaries again and again. glibc maps each anew and pays for every page; kept in
    the heap they are reused, which is worth more than a tenth of a step. The few above 32 MiB (logits, gradients of the
    embedding) stay mapped: in the heap they would leave holes that nothing else fits. Only glibc has these settings;
    elsewhere nothing changes. Call it before the first large allocation; calling it twice does no harm.
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

    Logits read across their rows touch a page for every row; with small pages the processor looks most of them up anew.
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
