"""Damage to a file, the ways that disks and people do it, and what must come of it."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from rethink.errors import RethinkError

WAYS = ("cut", "missing", "flipped", "zeroed")
IGNORED = (".rethink.lock",)


def files_of(folder: Path) -> list[Path]:
    """Every file below a run's folder, relative to it."""
    return sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file() and path.name not in IGNORED)


def damage(path: Path, way: str, seed: int = 0) -> None:
    """Cut a file, remove it, flip one bit of it, or zero a block of it."""
    dice = random.Random(f"{path.name} {way} {seed}")
    if way == "missing":
        path.unlink()
        return
    data = bytearray(path.read_bytes())
    if way == "cut":
        del data[dice.randrange(len(data)) :]
    elif way == "flipped":
        place = dice.randrange(8 * len(data))
        data[place // 8] ^= 1 << place % 8
    else:
        start = dice.randrange(len(data))
        data[start : start + 512] = bytes(len(data[start : start + 512]))
    path.write_bytes(bytes(data))


def damaged_copies(
    run: Path, place: Path, ways: tuple[str, ...] = WAYS, seed: int = 0, below: str = ""
) -> Iterator[tuple[str, Path]]:
    """A copy of a run for each of its files and each way, with that file damaged: (what was done, copy).

    `below`: the folder whose files are damaged; `-` before it: all others.
    """
    for relative in files_of(run):
        inside = relative.parts[0] == below.removeprefix("-")
        if not (run / relative).stat().st_size or (below and inside == below.startswith("-")):
            continue
        for way in ways:
            copy = place / "copy"
            shutil.rmtree(copy, ignore_errors=True)
            shutil.copytree(run, copy)
            damage(copy / relative, way, seed)
            if way != "missing" and (copy / relative).read_bytes() == (run / relative).read_bytes():
                continue  # zeros were zeroed
            yield f"{relative} {way}", copy


def refused(act: Callable[[], object], copy: Path, what: str) -> bool:
    """Whether an act ends with an error of ours, which then names a file; any other exception passes through."""
    said = None
    try:
        act()
    except RethinkError as error:
        said = str(error)
    name = what.rpartition(" ")[0].rpartition("/")[2]
    assert said is None or str(copy) in said or name in said, f"{what}: {said}"
    return said is not None
