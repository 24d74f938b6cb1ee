"""What a machine of a cluster tells of itself, and what ends Ray on it.

python -m rethink.distributed.host facts [--port PORT] [--engine NAME] [PATH …]     one JSON object
python -m rethink.distributed.host stop HOST:PORT                   the number of processes that were ended
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import os
import platform
import socket
import time
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

from rethink.errors import RethinkError
from rethink.store.environment import processor
from rethink.terminal import json_text, say

MISSING = "missing"
BUSY = "in use"
THERE = "there"
_STOP_SECONDS = 5.0
_BY_CONTENT = 1 << 20
"""Files up to so many bytes are compared by their content, larger ones by their size."""


def facts(paths: Sequence[str] = (), port: int | None = None, engines: Sequence[str] = ()) -> dict[str, str]:
    """Name, versions, processor, clock (seconds since 1970); of each path a digest of what is there, or `missing`; of a
    port whether it is in use; of each engine that it is there, or why not.

    Args:
        paths: files or folders that a run reads.
        port: on which a server is to listen.
        engines: names of engines that are to sample.
    """
    about = processor()
    found = {
        "host": socket.gethostname(),
        "cpus": str(os.cpu_count() or 1),
        "clock": str(round(time.time())),
        "python": ".".join(platform.python_version_tuple()[:2]),
        **{package: _version(package) for package in ("rethink", "ray", "torch")},
        "processor": str(about["name"]),
        "instructions": " ".join(about["instructions"]),
        **{f"path {path}": digest(Path(path)) for path in paths},
        **{f"engine {name}": _engine(name) for name in engines},
    }
    return found if port is None else found | {"port": "free" if free(port) else BUSY}


def digest(path: Path) -> str:
    """SHA-256 (hex) of names and sizes of what is at a path, and of the content of small files; or `missing`."""
    if not path.exists():
        return MISSING
    files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    whole = hashlib.sha256()
    for file in files:
        size = file.stat().st_size
        whole.update(f"{file.relative_to(path).as_posix()} {size}\n".encode())
        if size <= _BY_CONTENT:
            whole.update(file.read_bytes())
    return whole.hexdigest()


def free(port: int) -> bool:
    """Whether nothing listens on a port of this machine."""
    with socket.socket() as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind(("", port))
        except OSError:
            return False
        return True


def stop(address: str) -> int:
    """End this user's processes here of the Ray whose head is at an address; returns their number.

    A head on a loopback address is known by its port alone.
    """
    import psutil

    mine, (host, _, port) = [], address.rpartition(":")
    known = {host, *_addresses(host)}
    everywhere = any(name.startswith("127.") for name in known)  # Ray writes this machine's own address instead
    for process in psutil.process_iter(["cmdline", "uids"]):
        words = process.info["cmdline"] or []
        head = bool(words) and words[0].endswith("gcs_server") and f"--gcs_server_port={port}" in words
        heads = [word.partition("address=")[2].rpartition(":") for word in words if "address=" in word]
        member = any(where[2] == port and (everywhere or where[0] in known) for where in heads)
        if (head or member) and process.info["uids"] and process.info["uids"].real == os.getuid():
            mine.append(process)
    for process in mine:
        _signal(process, "terminate")
    for process in psutil.wait_procs(mine, timeout=_STOP_SECONDS)[1]:
        _signal(process, "kill")
    return len(mine)


def main(argv: Sequence[str] | None = None) -> int:
    """See the module."""
    parser = argparse.ArgumentParser(prog="python -m rethink.distributed.host")
    what = parser.add_subparsers(dest="what", required=True)
    telling = what.add_parser("facts")
    telling.add_argument("--port", type=int)
    telling.add_argument("--engine", action="append", default=[], dest="engines")
    telling.add_argument("paths", nargs="*")
    what.add_parser("stop").add_argument("address")
    args = parser.parse_args(argv)
    say(json_text(facts(args.paths, args.port, args.engines)) if args.what == "facts" else stop(args.address))
    return 0


def _version(package: str) -> str:
    if package == "rethink":
        from rethink import __version__

        return __version__
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return MISSING


def _engine(name: str) -> str:
    from rethink.rollout.engines import check_there

    try:
        check_there(name)
    except RethinkError as error:
        return str(error)
    return THERE


def _addresses(host: str) -> set[str]:
    try:
        return {str(found[4][0]) for found in socket.getaddrinfo(host, None)}
    except OSError:
        return set()


def _signal(process: object, how: str) -> None:
    import psutil

    with contextlib.suppress(psutil.NoSuchProcess):
        getattr(process, how)()


if __name__ == "__main__":
    raise SystemExit(main())
