"""Compiles the C++ beside this file for this processor, once, and loads it.

The cache entry is keyed by the sources, the compiler and the processor. Where there is no compiler, the processor has
neither AVX512-BF16 nor AVX2, or the build fails, everything runs on the torch references, and one line says so.
`RETHINK_KERNELS` chooses: `auto`, `reference` (off), or `avx2` (leave AVX-512 unused: fp32 kernels only).
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rethink.errors import RethinkError, UsageError
from rethink.store.cache import cache_root, cached_folder
from rethink.terminal import say

VARIABLE = "RETHINK_KERNELS"
CHOICES = ("auto", "reference", "avx2")
SOURCES = (
    "gemm.cpp",
    "gemm_f32.cpp",
    "attention.cpp",
    "attention_backward.cpp",
    "elementwise.cpp",
    "head.cpp",
    "layers.cpp",
    "adamw.cpp",
)
HEADERS = ("common.h", "gemm.h", "attention.h", "attention_blocks.h")
LEVELS = {
    "avx512-bf16": ("avx512f", "avx512bw", "avx512vl", "avx512dq", "avx512_bf16"),
    "avx2": ("avx2", "fma", "f16c"),
}
"""Levels from the best down, and the processor flags that each needs (names of /proc/cpuinfo)."""
FLAGS = {"avx512-bf16": ["-march=native"], "avx2": ["-mavx2", "-mfma"]}
COMMON = ["-std=c++17", "-O3", "-fopenmp", "-fPIC", "-fvisibility=hidden", "-fno-math-errno"]
HERE = Path(__file__).resolve().parent


@dataclass(frozen=True, slots=True)
class Native:
    """The loaded library."""

    functions: ctypes.CDLL
    level: str

    @property
    def bf16(self) -> bool:
        """Whether it has bf16 kernels; fp32 ones it always has."""
        return self.level == "avx512-bf16"


@dataclass(frozen=True, slots=True)
class Status:
    """What is used and why: for `rethink doctor`."""

    level: str
    """`avx512-bf16`, `avx2` or `reference`."""
    reason: str
    """Why nothing better is used; empty where the processor's best is."""


_chosen: str | None = None
"""One of `CHOICES` instead of what the environment says, while `using` holds."""


def native() -> Native | None:
    """The library, compiled if need be; None where the references are used."""
    return _load(_chosen)[0]


def kernels_for(dtype: str, device: str) -> str:
    """Which kernels compute in `bfloat16` or `float32` on `cpu` or `cuda`: level and type, such as `avx2 float32`, or
    `reference`. Compiles if need be.
    """
    library = native() if device == "cpu" else None
    if library is None or (dtype == "bfloat16" and not library.bf16):
        return "reference"
    return f"{library.level} {dtype}"


def status() -> Status:
    """What is used. Compiles if need be."""
    return _load(_chosen)[1]


@contextmanager
def using(choice: str) -> Iterator[None]:
    """Another choice than the environment's, for comparisons within a process.

    What keeps packed weights, a cache or a graph must be made and used within: it belongs to the kernels it began with.
    """
    global _chosen
    before, _chosen = _chosen, choice
    try:
        yield
    finally:
        _chosen = before


@functools.cache
def _load(choice: str | None) -> tuple[Native | None, Status]:
    """By choice; None: the environment's."""
    chosen = choice or os.environ.get(VARIABLE, "auto").strip().lower() or "auto"
    if chosen not in CHOICES:
        raise UsageError(f"{VARIABLE}={chosen} is unknown; allowed: {', '.join(CHOICES)}")
    if chosen == "reference":
        return None, Status("reference", f"{VARIABLE}=reference")
    level = _level(_processor_flags(), chosen)
    if level is None:
        return _without("this processor has neither AVX512-BF16 nor AVX2")
    compiler = shutil.which(os.environ.get("CXX") or "g++") or shutil.which("clang++") or shutil.which("c++")
    if compiler is None:
        return _without("there is no C++ compiler (on Debian and Ubuntu: apt-get install g++)")
    try:
        path = _built(compiler, level)
        functions = ctypes.CDLL(str(path))
    except UsageError:  # a cache that others can write: an error, not a silent fallback
        raise
    except (OSError, subprocess.SubprocessError, RethinkError) as error:
        return _without(f"they could not be built or loaded with {compiler}: {_last_line(error)}")
    return Native(functions, level), Status(level, "" if chosen == "auto" else f"{VARIABLE}={chosen}")


def _without(reason: str) -> tuple[None, Status]:
    say(f"rethink: slower reference kernels are used, since {reason}", file=sys.stderr)
    return None, Status("reference", reason)


def _level(flags: frozenset[str], chosen: str) -> str | None:
    for level, needed in LEVELS.items():
        if flags.issuperset(needed) and (chosen == "auto" or chosen == level):
            return level
    return None


def _processor_flags() -> frozenset[str]:
    if platform.machine() not in ("x86_64", "AMD64"):
        return frozenset()
    return frozenset(_cpuinfo("flags").split())


def _cpuinfo(key: str) -> str:
    """The first value of a key of /proc/cpuinfo; empty where there is none."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.partition(":")[0].strip() == key), "")


def _built(compiler: str, level: str) -> Path:
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=True, timeout=30).stdout
    processor = [_cpuinfo(key) for key in ("vendor_id", "cpu family", "model", "stepping", "flags")]
    digest = hashlib.blake2b(digest_size=12)
    for part in (version, level, *processor, *COMMON, *FLAGS[level]):
        digest.update(part.encode() + b"\0")
    for name in (*SOURCES, *HEADERS):
        digest.update((HERE / name).read_bytes())
    build = functools.partial(_compile, compiler, level)
    return cached_folder(cache_root() / "kernels", f"{level}-{digest.hexdigest()}", build) / "kernels.so"


def _compile(compiler: str, level: str, folder: Path) -> None:
    """Every source by a process of its own, at the same time; then one link."""
    say(f"rethink: compiling kernels for this processor ({level}; once, about 10 s) ...", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        objects = [Path(temporary) / f"{name}.o" for name in SOURCES]
        running = [
            subprocess.Popen(
                [compiler, *COMMON, *FLAGS[level], "-c", str(HERE / name), "-o", str(target)],
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            )
            for name, target in zip(SOURCES, objects, strict=True)
        ]  # fmt: skip
        outputs = [process.communicate()[0] for process in running]
        for process, output in zip(running, outputs, strict=True):
            if process.returncode:
                raise subprocess.SubprocessError(output or f"{compiler} ended with {process.returncode}")
        # torch has loaded its own OpenMP runtime under the same name: both share one pool of threads.
        command = [compiler, "-shared", "-fopenmp", *map(str, objects), "-o", str(folder / "kernels.so")]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise subprocess.SubprocessError(done.stderr)


def _last_line(error: Exception) -> str:
    lines = [line for line in str(error).strip().splitlines() if line.strip()]
    wanted = [line for line in lines if "error" in line.lower()]
    return (wanted or lines or [type(error).__name__])[0][:200]
