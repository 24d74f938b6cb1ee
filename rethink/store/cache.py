"""The cache of what is made once (converted models, compiled kernels): a folder each, either whole or not there."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rethink.errors import StorageFailure
from rethink.store.atomic import storage_errno


def cache_root(cache_dir: Path | None = None) -> Path:
    """Where it is: the argument, else `$RETHINK_CACHE`, else `~/.cache/rethink`."""
    if cache_dir is not None:
        return cache_dir
    chosen = os.environ.get("RETHINK_CACHE")
    return Path(chosen).expanduser() if chosen else Path.home() / ".cache" / "rethink"


def cached_folder(root: Path, key: str, build: Callable[[Path], None], needed_bytes: int = 0) -> Path:
    """The entry `key` under `root`; where it is missing, `build(folder)` fills it once, whatever other processes do.

    The folder is filled under a temporary name and renamed, so that a killed process leaves no half entry.

    Args:
        root: the cache.
        key: name of the entry, safe as a file name.
        build: fills an empty folder.
        needed_bytes: disk space that `build` will take; checked before it starts.

    Raises:
        StorageFailure: the cache cannot be written or has too little space.
    """
    final = root / key
    if final.is_dir():
        return final
    try:
        root.mkdir(parents=True, exist_ok=True)
        with _locked(root / f"{key}.lock"):
            if final.is_dir():
                return final
            _check_space(root, needed_bytes)
            draft = root / f".{key}.draft"
            shutil.rmtree(draft, ignore_errors=True)
            draft.mkdir()
            try:
                build(draft)
                os.rename(draft, final)
            finally:
                shutil.rmtree(draft, ignore_errors=True)
    except (OSError, StorageFailure) as error:
        number = storage_errno(error)
        if number is None:
            raise
        raise StorageFailure(
            f"the cache {root} cannot be written ({os.strerror(number).lower()}); free some space or set "
            "RETHINK_CACHE to a folder on another disk"
        ) from error
    return final


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _check_space(root: Path, needed_bytes: int) -> None:
    free = shutil.disk_usage(root).free
    if needed_bytes > free:
        raise StorageFailure(
            f"converting this model takes {needed_bytes / 1e9:.1f} GB in {root}, where {free / 1e9:.1f} GB are free; "
            "free some space or set RETHINK_CACHE to a folder on another disk"
        )
