"""The cache of what is made once (converted models, compiled kernels): a folder each, either whole or not there.

Its content runs as code or is trained on, so a folder that another user owns or can write is never used.
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

from rethink.errors import StorageFailure, UsageError
from rethink.store.atomic import storage_errno
from rethink.store.lock import one_at_a_time


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
        UsageError: another user owns the cache or the entry, or may write there.
    """
    found = cached_entry(root, key)
    if found is not None:
        return found
    final = root / key
    try:
        for folder in (*reversed(root.parents), root):
            if not folder.exists():
                folder.mkdir(mode=0o700, exist_ok=True)
        _check_root(root)
        with one_at_a_time(root / f"{key}.lock"):
            found = cached_entry(root, key)
            if found is not None:
                return found
            _check_space(root, needed_bytes)
            draft = root / f".{key}.draft"
            shutil.rmtree(draft, ignore_errors=True)
            draft.mkdir()
            try:
                build(draft)
                for path in (draft, *draft.rglob("*")):  # whatever the umask is
                    path.chmod(stat.S_IMODE(path.lstat().st_mode) & ~_OTHERS_WRITE)
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


def cached_entry(root: Path, key: str) -> Path | None:
    """The entry, where it is there.

    Raises:
        UsageError: another user owns the cache or the entry, or may write there.
    """
    entry = root / key
    if not entry.is_dir():
        return None
    _check_root(root)
    for path in (entry, *entry.rglob("*")):
        wrong = _not_ours(path.lstat(), _OTHERS_WRITE)
        if wrong is not None:
            raise UsageError(
                f"{path} in the cache {wrong}, so its content may be somebody else's; inspect it, remove it "
                f"(`rm -r {entry}`), and it is created again, or set RETHINK_CACHE to your own folder"
            )
    return entry


_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


def _check_root(root: Path) -> None:
    """Refuse a cache that others can change, or exchange by way of a folder above it."""
    real = root.resolve()
    for folder in (real, *real.parents):
        status = folder.stat()
        # A group may write above: many systems give every user a group of their own. In folders like /tmp, only owners
        # may rename.
        bits = _OTHERS_WRITE if folder == real else 0 if status.st_mode & stat.S_ISVTX else stat.S_IWOTH
        wrong = _not_ours(status, bits)
        if wrong is not None:
            raise UsageError(
                f"the cache {root} is not safe: {folder} {wrong}, who could put code into it; if you trust "
                f"its content, `chmod go-w {folder}` (or `chown`), else set RETHINK_CACHE to your own folder"
            )


def _not_ours(status: os.stat_result, bits: int) -> str | None:
    """What makes a file another user's: its owner, or one of these bits of its mode."""
    if status.st_uid not in (os.geteuid(), 0):
        return f"belongs to another user (uid {status.st_uid})"
    if stat.S_ISLNK(status.st_mode):
        return "is a link, which could lead to files of another user"
    return f"may be written by other users (mode {stat.S_IMODE(status.st_mode):o})" if status.st_mode & bits else None


def _check_space(root: Path, needed_bytes: int) -> None:
    free = shutil.disk_usage(root).free
    if needed_bytes > free:
        raise StorageFailure(
            f"converting this model takes {needed_bytes / 1e9:.1f} GB in {root}, where {free / 1e9:.1f} GB are free; "
            "free some space or set RETHINK_CACHE to a folder on another disk"
        )
