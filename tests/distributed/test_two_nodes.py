"""Two machines that are network namespaces, with addresses of their own, and the cable between them.

It needs root and `ip`. Nothing leaves the two namespaces: they have one link, between themselves.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from rethink.distributed.launch import Hosts, start_command
from rethink.store.cluster_log import losses

from .processes import MARK, end_all
from .test_kills import OVERRIDES, Run, result

pytestmark = pytest.mark.slow
ADDRESSES = ("10.213.77.1", "10.213.77.2")
"""Of the head, where the driver runs, and of the other node."""
NAMES = tuple(f"rethink-{os.getpid()}-{number}" for number in range(2))
LINKS = tuple(f"rt{os.getpid() % 10**8}n{number}" for number in range(2))
PULLED_SECONDS = 20


def ip(*words: str) -> None:
    done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(f"ip {' '.join(words)}: {done.stderr.strip()}")


def link() -> None:
    for name in NAMES:
        ip("netns", "add", name)
        ip("-n", name, "link", "set", "lo", "up")
    ip("link", "add", LINKS[0], "netns", NAMES[0], "type", "veth", "peer", "name", LINKS[1], "netns", NAMES[1])
    for name, own, address, other in zip(NAMES, LINKS, ADDRESSES, reversed(ADDRESSES), strict=True):
        ip("-n", name, "address", "add", f"{address}/24", "dev", own)
        ip("-n", name, "link", "set", own, "up")
        ip("-n", name, "route", "add", "default", "via", other)  # Ray looks by which address it would go out


@pytest.fixture
def nodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a Ray with a head and another node, each with room for a worker."""
    pytest.importorskip("ray", reason="the extra `ray` is not installed")
    if os.geteuid() or shutil.which("ip") is None:
        pytest.skip("network namespaces need root and the command `ip`")
    own, mark = tempfile.mkdtemp(prefix="ray-"), f"{os.getpid()}-nodes"  # a short path, for Ray's sockets
    for name, value in {"RAY_TMPDIR": own, "HOME": str(tmp_path), "RAY_AUTH_MODE": "disabled"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))  # the rewards' module
    monkeypatch.setenv("RAY_memory_monitor_refresh_ms", "0")  # other tests may fill the memory
    listed = [{"host": h, "address": a, "cpus": 1} for h, a in zip(("127.0.0.1", "localhost"), ADDRESSES, strict=True)]
    hosts = Hosts.model_validate({"hosts": listed, "auth": "disabled"})
    try:
        try:
            link()
        except OSError as error:
            pytest.skip(f"no network namespaces can be made here: {error}")
        for number, name in enumerate(NAMES):
            subprocess.run(
                ["ip", "netns", "exec", name, *start_command(hosts, number)],
                env=os.environ | {MARK: mark},
                stdout=subprocess.DEVNULL,
                check=True,
                timeout=120,
            )
        yield hosts.address
    finally:
        end_all(mark)
        for name in NAMES:
            with suppress(OSError):
                ip("netns", "delete", name)
        shutil.rmtree(own, ignore_errors=True)


@pytest.mark.timeout(900)
def test_a_cable_that_is_pulled_leaves_the_bits_of_one_process(nodes: str, recipe_file: Path, tmp_path: Path) -> None:
    longer = [*OVERRIDES, "steps=40"]  # it lasts longer than the cable is out
    alone = Run(recipe_file, tmp_path / "alone", None, longer)
    alone.finish()
    cluster = tmp_path / "cluster.yaml"
    cluster.write_text(f"address: {nodes}\nworkers: 2\n")
    run = Run(recipe_file, tmp_path / "two", cluster, longer, ["ip", "netns", "exec", NAMES[0]])
    try:
        while run.rows() < 4:
            assert not run.done(), "it ended before the cable was pulled"
            time.sleep(0.02)
        ip("-n", NAMES[1], "link", "set", LINKS[1], "down")
        time.sleep(PULLED_SECONDS)
        assert not run.done(), "it ended before the cable was back"
        ip("-n", NAMES[1], "link", "set", LINKS[1], "up")
        run.finish()
    finally:
        end_all(run.marks[-1])
    assert result(run.out) == result(alone.out)
    first, *_ = losses(run.out)
    assert first["cause"] in ("its machine did not answer, or Ray ended there", "it did not answer for 10 s")
