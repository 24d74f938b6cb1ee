"""Ray on a list of hosts, over ssh: the commands (pure), and running them.

hosts:
  - {host: 10.0.0.1, cpus: 16}     # the first is the head; the driver is best started there
  - {host: ann@10.0.0.2}
python: /opt/rethink/bin/python    # on every host
"""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

from pydantic import Field, model_validator

from rethink.distributed.host import BUSY
from rethink.distributed.joining import SETTINGS
from rethink.distributed.layout import Node, strange
from rethink.errors import RecipeError, RunFailure, UsageError
from rethink.recipe.schema import Section

LOCAL = ("127.0.0.1", "localhost")
"""Hosts that are this machine, and are reached without ssh."""
SSH = ("ssh", "-o", "BatchMode=yes", "-o", "ConnectTimeout=10")
_SSH_FAILED, _NOT_FOUND = 255, (126, 127)
Say = Callable[[str], None]


class Host(Section):
    """A machine."""

    host: str = Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.:@%+-]*$")
    """As ssh takes it: a name, an address or `user@name`. `127.0.0.1` and `localhost` need no ssh."""
    address: str | None = Field(default=None, pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.:-]*$")
    """By which the other machines reach it; None: what follows the `@`."""
    cpus: int | None = Field(default=None, gt=0)
    """Processors that Ray may give away; None: all."""

    @property
    def reached_by(self) -> str:
        """Its address for the others."""
        return self.address or self.host.rpartition("@")[2]


class Hosts(Section):
    """A hosts file."""

    hosts: tuple[Host, ...] = Field(min_length=1)
    """The first is the head."""
    python: str = Field(default=sys.executable, min_length=1)
    """The Python that has Rethink and Ray, on every host; the default is the path of the one that runs here."""
    port: int = Field(default=6379, gt=0, lt=65536)
    """Of the head."""
    auth: Literal["token", "disabled"] = "token"
    """`token`: Ray answers only those who have its token, the same file `~/.ray/auth_token` on every host."""
    ssh: tuple[str, ...] = ()
    """More options of ssh, such as `[-p, "2222"]`."""
    seconds: float = Field(default=60.0, gt=0)
    """How long a command may take on a host."""

    @property
    def address(self) -> str:
        """Of the cluster."""
        return f"{self.hosts[0].reached_by}:{self.port}"

    @model_validator(mode="after")
    def _refuse(self) -> Hosts:
        names = [host.host for host in self.hosts]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise RecipeError(f"`hosts` names {', '.join(twice)} more than once. Name each machine once.")
        others = [host.host for host in self.hosts[1:] if host.host not in LOCAL]
        if others and self.hosts[0].reached_by in LOCAL:
            raise RecipeError(
                f"the head is `{self.hosts[0].reached_by}`, which {', '.join(others)} cannot reach. Give it an "
                "`address` of your network."
            )
        return self


@dataclass(frozen=True, slots=True)
class Ended:
    """How a command on a host ended."""

    code: int
    out: str
    error: str


# What is run


def facts_command(hosts: Hosts, index: int) -> list[str]:
    """What a host is asked before Ray is started: see `host.facts`."""
    port = ["--port", str(hosts.port)] if index == 0 else []
    return on_host(hosts, index, [hosts.python, "-m", "rethink.distributed.host", "facts", *port])


def start_command(hosts: Hosts, index: int) -> list[str]:
    """What starts Ray on a host."""
    host = hosts.hosts[index]
    words = ["env", f"RAY_AUTH_MODE={hosts.auth}", hosts.python, "-m", "ray.scripts.scripts", "start"]
    words += ["--disable-usage-stats"]
    if index == 0:
        words += ["--head", f"--node-ip-address={host.reached_by}", f"--port={hosts.port}"]
        words += ["--include-dashboard=false", f"--system-config={json.dumps(SETTINGS)}"]
    else:
        words += [f"--address={hosts.address}", f"--node-ip-address={host.reached_by}"]
    return on_host(hosts, index, words if host.cpus is None else [*words, f"--num-cpus={host.cpus}"])


def stop_command(hosts: Hosts, index: int) -> list[str]:
    """What ends the Ray of this cluster on a host: see `host.stop`."""
    return on_host(hosts, index, [hosts.python, "-m", "rethink.distributed.host", "stop", hosts.address])


def on_host(hosts: Hosts, index: int, words: Sequence[str]) -> list[str]:
    """A command as it is run here: by itself on this machine, through ssh on others."""
    host = hosts.hosts[index].host
    return list(words) if host in LOCAL else [*SSH, *hosts.ssh, "--", host, shlex.join(words)]


# Running it


def up(hosts: Hosts, say: Say) -> None:
    """Start Ray on all hosts, the head first.

    Raises:
        UsageError: a host cannot be reached, versions differ, or the head's port is in use.
        RunFailure: Ray does not start on a host.
    """
    every = range(len(hosts.hosts))
    check(hosts, run_all(hosts, {index: facts_command(hosts, index) for index in every}))
    for group in ([0], list(every)[1:]):
        ended = run_all(hosts, {index: start_command(hosts, index) for index in group})
        if failed := _failures(hosts, ended):
            raise RunFailure(
                f"Ray does not start: {'. '.join(failed)}. What was started runs on: `rethink cluster down` ends it"
            )
        for index in group:
            say(f"{hosts.hosts[index].host}: Ray runs")


def down(hosts: Hosts, say: Say) -> None:
    """End the cluster's Ray on all hosts, the head last.

    Raises:
        RunFailure: a host cannot be reached; the others were ended.
    """
    failed = []
    for group in (list(range(1, len(hosts.hosts))), [0]):
        ended = run_all(hosts, {index: stop_command(hosts, index) for index in group})
        failed += _failures(hosts, ended)
        for index, end in ended.items():
            if end.code == 0:
                say(f"{hosts.hosts[index].host}: {end.out.strip()} processes of Ray ended")
    if failed:
        raise RunFailure(f"Ray may still run: {'. '.join(failed)}")


def check(hosts: Hosts, ended: Mapping[int, Ended]) -> None:
    """Whether Ray can be started, from what hosts told.

    Raises:
        UsageError: it cannot; the message says why, and what to change.
    """
    problems, nodes = _failures(hosts, ended), []
    for index, end in ended.items():
        if end.code:
            continue
        facts = json.loads(end.out.strip().splitlines()[-1])
        nodes.append(Node(hosts.hosts[index].host, 0.0, None, facts))
        if facts.get("port") == BUSY:
            problems.append(
                f"port {hosts.port} of {hosts.hosts[index].host} is in use: a Ray runs there already (`rethink cluster "
                "status` asks it, `rethink cluster down` ends it), or another program. Write another `port`"
            )
    if problems := [*problems, *strange(nodes)]:
        raise UsageError(f"Ray is not started. {'. '.join(problems)}")


def run_all(hosts: Hosts, commands: Mapping[int, Sequence[str]]) -> dict[int, Ended]:
    """Run a command for each host, all at once; by index of the host."""
    if not commands:
        return {}
    with ThreadPoolExecutor(len(commands)) as threads:
        ended = threads.map(lambda command: _run(command, hosts.seconds), commands.values())
        return dict(zip(commands, ended, strict=True))


def _run(command: Sequence[str], seconds: float) -> Ended:
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=seconds, check=False
        )
    except subprocess.TimeoutExpired:
        return Ended(-1, "", f"it did not end within {seconds:.0f} s")
    except OSError as error:
        return Ended(_NOT_FOUND[1], "", str(error))
    return Ended(done.returncode, done.stdout, done.stderr)


def _failures(hosts: Hosts, ended: Mapping[int, Ended]) -> list[str]:
    """A sentence for each host where the command failed."""
    found = []
    for index, end in ended.items():
        host, last = hosts.hosts[index].host, (end.error.strip().splitlines() or ["no reason given"])[-1]
        if end.code == _SSH_FAILED and host not in LOCAL:
            found.append(f"ssh does not reach {host} ({last}); `ssh {host} true` must work without a password")
        elif end.code in _NOT_FOUND:
            found.append(f"{host} has no {hosts.python} ({last}); give its path as `python`")
        elif "No module named" in last:
            found.append(f"{hosts.python} of {host} lacks a package ({last}); install the extra `ray` there")
        elif end.code:
            found.append(f"{host}: {last}")
    return found
