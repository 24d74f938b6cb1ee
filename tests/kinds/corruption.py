"""Damage to the files of a run, the ways that disks and people do it, and what must come of it.

Of each file of a run, and each way: whoever reads the folder notices, or reads what was written; a resumed run refuses,
falls back and says so, or ends in the bits in which the undamaged one ends.
"""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rethink.errors import RethinkError
from rethink.observe.progress import Progress, Silent
from rethink.observe.report.facts import report_data, sample
from rethink.store.contents import content_hash
from rethink.store.integrity import read_sealed
from rethink.store.rollout_files import read_rows
from rethink.store.run_folder import RunFolder

WAYS = ("cut", "missing", "flipped", "zeroed")
IGNORED = (".rethink.lock",)
RENDERED = "report.html"
"""Holds nothing of its own: `rethink report` writes it anew."""
ADVICE = ("restore", "delete", "remove", "--resume", "again", "--out")
"""Words of what to do; an error has one of them."""


class Notes(Silent):
    """Keeps what a run says."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def note(self, text: str) -> None:
        """Keep it."""
        self.said.append(text)


def facts(folder: Path) -> tuple[Any, list[str]]:
    """What readers make of a run's folder, clocks and place aside; and what they say is lost."""
    run = RunFolder.open(folder)
    data = report_data(run)
    lost: list[str] = data.pop("lost")
    return json.dumps(data | {"path": "", "samples": sample(run)}, sort_keys=True), lost


def model_bits(folder: Path) -> Any:
    """Of a kind that trains: the model it ends in."""
    return (folder / "model" / "model.safetensors").read_bytes()


@dataclass(frozen=True)
class Subject:
    """A run to be damaged."""

    stopped: Path
    """Its folder; a copy of it with one damaged file is resumed."""
    whole: Path
    """The folder in which the undamaged run ends."""
    resume: Callable[[Path, Progress], Any]
    results: Callable[[Path], Any] = model_bits
    """What must be the same in the end."""
    reads: Callable[[Path], tuple[Any, list[str]]] = facts
    """What readers make of the folder, and what they say is lost."""


def files_of(folder: Path) -> list[Path]:
    """Every file below a run's folder that holds something, relative to it."""
    found = (path for path in folder.rglob("*") if path.is_file() and path.name not in IGNORED and path.stat().st_size)
    return sorted(path.relative_to(folder) for path in found)


def damaged(data: bytes, way: str, dice: random.Random) -> bytes:
    """The bytes cut, with one bit flipped, or with a block of zeros."""
    changed = bytearray(data)
    if way == "cut":
        del changed[dice.randrange(len(data)) :]
    elif way == "flipped":
        place = dice.randrange(8 * len(data))
        changed[place // 8] ^= 1 << place % 8
    else:
        start = dice.randrange(len(data))
        changed[start : start + 512] = bytes(len(changed[start : start + 512]))
    return bytes(changed)


def damage(path: Path, way: str, seed: int = 0) -> bool:
    """Damage a file in one of `WAYS`; False where it is as before, since zeros were zeroed."""
    if way == "missing":
        path.unlink()
        return True
    before = path.read_bytes()
    after = damaged(before, way, random.Random(f"{path.name} {way} {seed}"))
    path.write_bytes(after)
    return after != before


def damaged_copies(
    run: Path, place: Path, chosen: Callable[[Path], bool], seed: int = 0
) -> Iterator[tuple[Path, str, Path]]:
    """(file, way, copy): a copy of a run for each of the chosen files and each way, with that file damaged."""
    for file in filter(chosen, files_of(run)):
        for way in WAYS:
            copy = place / "copy"
            shutil.rmtree(copy, ignore_errors=True)
            shutil.copytree(run, copy)
            if damage(copy / file, way, seed):
                yield file, way, copy


def refused(act: Callable[[], object], file: Path, what: str) -> bool:
    """Whether an act ends with an error of ours, which names the file and says what to do; others pass through."""
    said = None
    try:
        act()
    except RethinkError as error:
        said = str(error)
    if said is None:
        return False
    number = file.stem[-6:].lstrip("0") or "0"
    names = [file.name, f"{file.parent}` are lost: numbers {number}."]
    if file.parent.name == "stages":  # a stage's record: the folder beside it
        names.append(file.stem)
    assert any(name in said for name in names), f"{what}: {said}"
    assert any(word in said.lower() for word in ADVICE), f"{what}: {said}"
    return True


def sweep(subject: Subject, place: Path, chosen: Callable[[Path], bool] = lambda file: True) -> int:
    """Damage each chosen file each way; read, resume, and read again. Returns how many resumes were refused."""
    right, results = subject.reads(subject.stopped), subject.results(subject.whole)
    refusals = 0
    for file, way, copy in damaged_copies(subject.stopped, place, chosen):
        what = f"{file} {way}"
        unfinished = file.name == "summary.json" and way == "missing"  # as of a run that has not ended
        if not noticed(subject, copy, file, what) and not unfinished:
            assert subject.reads(copy) == right, f"{what}: read as if nothing had happened"
        before = content(copy / file)
        notes = Notes()
        if refused(lambda copy=copy, notes=notes: subject.resume(copy, notes), file, what):  # type: ignore[misc]
            refusals += 1
            continue
        assert subject.results(copy) == results, f"{what}: other results"
        if before is not None and before == content(copy / file) and file.name != RENDERED:
            told = any(file.name in note for note in notes.said) or noticed(subject, copy, file, what)
            assert told, f"{what}: still there, and no reader of it says so"
    return refusals


def noticed(subject: Subject, copy: Path, file: Path, what: str) -> bool:
    """Whether somebody who reads the folder, or uses what lies in it, hears of the damage."""
    heard: list[str] = []
    return (
        refused(lambda: heard.extend(subject.reads(copy)[1]), file, what) or bool(heard) or unusable(copy, file, what)
    )


def unusable(copy: Path, file: Path, what: str) -> bool:
    """Whether a damaged file that is still there is refused where it is read or used."""
    if not (copy / file).is_file():
        return False
    readers: dict[str, Callable[[Path], Any]] = {".json": read_sealed, ".parquet": read_rows}
    read = readers.get(file.suffix, lambda path: None)
    return any(
        refused(act, file, what) for act in (lambda: content_hash((copy / file).parent), lambda: read(copy / file))
    )


def content(path: Path) -> bytes | None:
    """The bytes of a file; None where there is none."""
    return path.read_bytes() if path.is_file() else None
