"""Cores and memory that this process may use, control groups included."""

from __future__ import annotations

import math
import os
import resource
import sys
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Memory:
    """Memory that this process may use, in bytes."""

    total: int
    """Installed memory or the control group's limit, whichever is smaller."""
    available: int
    """What could still be allocated now without swapping or meeting the limit."""
    limited: bool
    """Whether a control group's limit is what counts."""


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


def oom_kills(root: Path = Path("/")) -> int:
    """Processes of this machine that its system has ended since it started, because memory was short."""
    for line in _read(root / "proc/vmstat").splitlines():
        name, _, value = line.partition(" ")
        if name == "oom_kill" and value.isdecimal():
            return int(value)
    return 0


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
    """This process's control-group folders for a controller and all their parents, any of which may set limits."""
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
