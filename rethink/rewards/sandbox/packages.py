"""Files of an installed package and of all that it needs, for a sandbox in which third-party code runs."""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import subprocess
import sys
from functools import lru_cache
from pathlib import Path

from rethink.rewards.sandbox.errors import SandboxUnavailable

FOLDER = "/packages"
"""Where packages lie in the sandbox."""

_LIST_SHARED = """
import ctypes, importlib, json, os, sys
importlib.import_module(sys.argv[1])
class Info(ctypes.Structure):
    _fields_ = [("address", ctypes.c_void_p), ("name", ctypes.c_char_p)]
paths = []
def visit(info, size, data):
    paths.append(os.fsdecode(info.contents.name or b""))
    return 0
kind = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(Info), ctypes.c_size_t, ctypes.c_void_p)
ctypes.CDLL(None).dl_iterate_phdr(kind(visit), None)
print(json.dumps([p for p in paths if p.startswith("/")]))
"""


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
    command = [sys.executable, "-P", "-B", "-c", _LIST_SHARED, module]
    try:
        done = subprocess.run(command, capture_output=True, check=True, timeout=120)
        loaded: list[str] = json.loads(done.stdout.splitlines()[-1])
    except (OSError, ValueError, IndexError, subprocess.SubprocessError) as error:
        raise SandboxUnavailable(f"{module} cannot be imported ({error})") from None
    own = [path + os.sep for path, _ in package_files(package)] + [path for path, _ in package_files(package)]
    return tuple(path for path in loaded if not os.path.realpath(path).startswith(tuple(own)))
