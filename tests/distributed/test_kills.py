"""Whoever is killed at whatever moment, a run ends in the bits of one process, with each step once; whoever is stopped
is named.

All that a case draws comes from one integer, its seed, so that it can be played again:

    RETHINK_KILLS=40 python -m pytest -m slow tests/distributed/test_kills.py -k moments    # the first 40 of 200
    RETHINK_KILLS_SEED=7 RETHINK_KILLS=10 …                                                 # the eighth block of ten
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from rethink.store.run_folder import RunFolder
from tests.paths import ROOT
from tests.runs.compare import PLACES, timeless

from .processes import MARK, end_all, left_over, marked, role
from .test_ray import hash_of

VICTIMS = ("driver", "rank", "worker", "raylet", "gcs_server", "ray process")
MOMENTS = int(os.environ.get("RETHINK_KILLS", "200"))
BLOCK = 10
FIRST = int(os.environ.get("RETHINK_KILLS_SEED", "0"))
OVERRIDES = ("steps=16", "optimizer.lanes=2", "model.dtype=bfloat16", "rollout.max_new_tokens=24")
LONGER = (*OVERRIDES, "steps=40", "rollout.max_new_tokens=150")
"""It lasts longer than whoever is stopped goes unnoticed."""
CLUSTER = "workers: 2\nranks: 2\n"
END_SECONDS = 120.0
"""How long processes may outlive a run: agents of a raylet that was killed first try to tell its control service."""


@dataclass(frozen=True, slots=True)
class Moment:
    """When somebody is struck."""

    victim: str
    rows: int
    """Steps to wait for since the strike before."""
    seconds: float
    """To wait after them."""
    which: float
    """Of several, 0 to 1."""


def drawn(seed: int, number: int) -> list[Moment]:
    """Moments that follow from a seed; every victim comes about equally often."""
    dice = random.Random(seed)
    victims: list[str] = []
    while len(victims) < number:
        victims += dice.sample(VICTIMS, len(VICTIMS))
    return [Moment(v, dice.randrange(4), dice.uniform(0.0, 2.0), dice.random()) for v in victims[:number]]


class Run:
    """A run in a process of its own, which is resumed for as long as it ends before it is done.

    Args:
        recipe: a file.
        out: the run's folder; what it prints goes beside it.
        cluster: file of the cluster; None: none.
        overrides: of the recipe.
        through: a command that runs it.
    """

    def __init__(
        self,
        recipe: Path,
        out: Path,
        cluster: Path | None,
        overrides: Sequence[str] = OVERRIDES,
        through: Sequence[str] = (),
    ):
        self.out, self.marks = out, list[str]()
        self._words = [*through, sys.executable, "-m", "rethink", "train", str(recipe), *overrides]
        self._words += ["--out", str(out), "--resume", "--json"]
        self._words += [] if cluster is None else ["--cluster", str(cluster)]
        self._environment = os.environ | {
            "PYTHONPATH": f"{recipe.parent}:{ROOT}",  # the rewards' module, for reward workers
            "OMP_NUM_THREADS": "1",
            "RAY_memory_monitor_refresh_ms": "0",  # other tests may fill the memory
        }
        self.start()

    def start(self) -> None:
        """Begin, or resume."""
        self.marks.append(f"{os.getpid()}-{self.out}-{len(self.marks)}")
        with self._file("out").open("a") as out, self._file("err").open("w") as err:
            self.process = subprocess.Popen(
                self._words,
                env=self._environment | {MARK: self.marks[-1]},
                cwd=self.out.parent,
                stdout=out,
                stderr=err,
            )

    def done(self) -> bool:
        """Whether it has ended well; where it ended otherwise, it is resumed."""
        code = self.process.poll()
        if code in (None, 0):
            return code == 0
        said = self._file("err").read_text()
        assert "Traceback" not in said, said
        assert code == -signal.SIGKILL or (code == 1 and "resume" in said), f"exit code {code}: {said}"
        self.start()
        return False

    def notes(self) -> list[str]:
        """What the run has told its user so far."""
        events = [json.loads(line) for line in self._file("out").read_text().splitlines() if line.endswith("}")]
        return [event["text"] for event in events if event["event"] == "note"]

    def rows(self) -> int:
        """Steps in the metrics."""
        path = self.out / "metrics.jsonl"
        return path.read_bytes().count(b"\n") if path.exists() else 0

    def strike(self, moment: Moment, signal_number: int = signal.SIGKILL) -> bool:
        """Wait for a moment, and strike; False: the run was done before."""
        seen, last = 0, self.rows()
        while seen < moment.rows:
            if self.done():
                return False
            time.sleep(0.02)
            now = self.rows()
            seen, last = seen + max(now - last, 0), now
        time.sleep(moment.seconds)
        while not self.done():
            if found := self.processes(moment.victim):
                os.kill(found[int(moment.which * len(found))], signal_number)
                return True
            time.sleep(0.02)
        return False

    def processes(self, victim: str) -> list[int]:
        """Ids of the live processes of a kind, of the present driver."""
        if victim == "driver":
            return [self.process.pid] if self.process.poll() is None else []
        return sorted(process.id for process in marked(self.marks[-1]) if role(process) == victim)

    def finish(self) -> None:
        """Until it is done; nothing of it lives on."""
        while not self.done():
            time.sleep(0.05)
        for mark in self.marks:
            assert not left_over(mark, END_SECONDS)

    def _file(self, what: str) -> Path:
        return self.out.with_name(f"{self.out.name}.{what}")


Start = Callable[..., Run]
Result = tuple[str, list[dict[str, Any]]]
_alone: dict[Sequence[str], Result] = {}


@pytest.fixture
def start(recipe_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """`start(name, overrides, spread=…)`: a run in `tmp_path / name`."""
    pytest.importorskip("ray", reason="the extra `ray` is not installed")
    ray = tempfile.mkdtemp(prefix="ray-")  # a short path, for its sockets
    monkeypatch.setenv("RAY_TMPDIR", ray)
    cluster, runs = tmp_path / "cluster.yaml", list[Run]()
    cluster.write_text(CLUSTER)

    def run(name: str, overrides: Sequence[str] = OVERRIDES, *, spread: bool = True) -> Run:
        runs.append(Run(recipe_file, tmp_path / name, cluster if spread else None, overrides))
        return runs[-1]

    yield run
    for mark in (mark for one in runs for mark in one.marks):
        end_all(mark)
    for one in runs:
        one.process.wait()
    shutil.rmtree(ray, ignore_errors=True)


def strike_all(start: Start, moments: list[Moment]) -> None:
    """Strike at each moment, in as many runs as that takes; each must end as one process does."""
    expected, left, number = alone(start), list(moments), 0
    while left:
        run = start(f"struck-{number}")
        while left and run.strike(left[0]):
            print(f"{run.out.name}: {left.pop(0)} after {run.rows()} rows", flush=True)
        run.finish()
        assert result(run.out) == expected
        number += 1


def alone(start: Start, overrides: Sequence[str] = OVERRIDES) -> Result:
    """Of one process. The model of every test is the same, so that it is trained once."""
    if overrides not in _alone:
        run = start("alone", overrides, spread=False)
        run.finish()
        _alone[overrides] = result(run.out)
    return _alone[overrides]


def result(out: Path) -> Result:
    """The model's hash, and the metrics: each step once."""
    rows = timeless(RunFolder.open(out), PLACES)
    assert [row["step"] for row in rows] == list(range(len(rows)))
    return hash_of(out), rows


def test_a_rank_and_a_driver_that_are_killed(start: Start) -> None:
    """Two moments, for the sake of time: all five take more than a minute on one core."""
    strike_all(start, [Moment("rank", 1, 0.3, 0.0), Moment("driver", 2, 0.1, 0.0)])


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("block", range(-(-MOMENTS // BLOCK)))
def test_killed_at_random_moments(start: Start, block: int) -> None:
    strike_all(start, drawn(FIRST + block, min(BLOCK, MOMENTS - block * BLOCK)))


NAMED = {
    "driver": "The run stood still for",
    "rank": "trainer rank 1 has not answered for 10 s and was ended",
    "worker": "is lost (it did not answer for 10 s)",
    "raylet": "its raylet has ended, or does not answer",
    "gcs_server": "its control service (gcs_server) has not answered for 10 s",
    "ray process": "its process has not answered for 10 s",
}


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("victim", VICTIMS)
def test_who_is_stopped_is_named_and_the_run_goes_on(
    start: Start, victim: str, record_property: Callable[[str, Any], None]
) -> None:
    expected, run = alone(start, LONGER), start("stopped", LONGER)
    assert run.strike(Moment(victim, 2, 0.2, 0.0), signal.SIGSTOP)
    struck = time.monotonic()
    if victim == "driver":
        time.sleep(12)
        run.process.send_signal(signal.SIGCONT)
    while not any(NAMED[victim] in note for note in run.notes()) and not run.done():
        time.sleep(0.1)
    seconds = time.monotonic() - struck
    record_property("seconds until it was named", seconds)
    print(f"{victim}: named after {seconds:.1f} s")
    run.finish()
    assert any(NAMED[victim] in note for note in run.notes()), run.notes()
    assert result(run.out) == expected
