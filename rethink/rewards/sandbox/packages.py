"""Files of an installed package and of all that it needs, for a sandbox in which third-party code runs."""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from rethink.rewards.sandbox.sandbox_errors import SandboxUnavailable

FOLDER = "/packages"
"""Folder of packages in the sandbox."""

_LIST_SHARED = """
import ctypes, importlib, json, os, sys
missing = []
for name in sys.argv[1:]:
    try:
        importlib.import_module(name)
    except ImportError:
        missing.append(name)
class Info(ctypes.Structure):
    _fields_ = [("address", ctypes.c_void_p), ("name", ctypes.c_char_p)]
paths = []
def visit(info, size, data):
    paths.append(os.fsdecode(info.contents.name or b""))
    return 0
kind = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(Info), ctypes.c_size_t, ctypes.c_void_p)
ctypes.CDLL(None).dl_iterate_phdr(kind(visit), None)
print(json.dumps([missing, [path for path in paths if path.startswith("/")]]))
"""


def loaded_by(interpreter: Sequence[str], modules: Sequence[str]) -> tuple[list[str], list[str]]:
    """Which of the modules cannot be imported, and the paths of the shared objects that the others load.

    Args:
        interpreter: the command that starts it, with its flags.
        modules: to import.

    Raises:
        SandboxUnavailable: the interpreter cannot say.
    """
    try:
        done = subprocess.run(
            [*interpreter, "-c", _LIST_SHARED, *modules], capture_output=True, check=True, timeout=120
        )
        missing, paths = json.loads(done.stdout.splitlines()[-1])
    except (OSError, ValueError, IndexError, subprocess.SubprocessError) as error:
        raise SandboxUnavailable(f"{interpreter[0]} cannot list its shared objects ({error})") from None
    return missing, paths


@lru_cache(maxsize=4)
def package_files(package: str) -> tuple[tuple[str, str], ...]:
    """(path here, path below `FOLDER`) of a package, of what it requires, and of what these require.

    Raises:
        SandboxUnavailable: the package or one that it requires is not installed.
    """
    found: dict[str, str] = {}
    for distribution in _with_requirements(package):
        for file in distribution.files or ():
            top = file.parts[0]
            path = Path(str(distribution.locate_file(top)))
            if top not in ("..", "__pycache__") and not top.endswith(".pth") and path.exists():
                found[str(path.resolve())] = f"{FOLDER}/{top}"
    return tuple(sorted(found.items()))


def _with_requirements(package: str) -> list[importlib.metadata.Distribution]:
    from packaging.requirements import Requirement

    found: dict[str, importlib.metadata.Distribution] = {}
    wanted = [package]
    while wanted:
        name = wanted.pop()
        key = re.sub(r"[-_.]+", "-", name).lower()
        if key in found:
            continue
        try:
            found[key] = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            raise SandboxUnavailable(f"the package {name}, which {package} needs, is not installed") from None
        for text in found[key].requires or ():
            requirement = Requirement(text)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                wanted.append(requirement.name)
    return list(found.values())


@lru_cache(maxsize=4)
def shared_objects(module: str, package: str) -> tuple[str, ...]:
    """Paths of the shared objects outside the package's files that importing its module loads.

    Raises:
        SandboxUnavailable: the module cannot be imported.
    """
    missing, paths = loaded_by([sys.executable, "-P", "-B"], [module])
    if missing:
        raise SandboxUnavailable(f"{module} cannot be imported")
    own = tuple(end for path, _ in package_files(package) for end in (path, path + os.sep))
    return tuple(path for path in paths if not os.path.realpath(path).startswith(own))
