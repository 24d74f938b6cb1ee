"""Ray on a list of hosts: the commands, what is said of hosts that fail, and a real start on this machine."""

from __future__ import annotations

import json
import shlex
import socket
from pathlib import Path
from typing import Any

import pytest

from rethink.cli import main
from rethink.distributed.launch import Ended, Hosts, check, down, facts_command, start_command, stop_command, up
from rethink.distributed.nodes import Question, ask_nodes
from rethink.errors import RecipeError, RunFailure, UsageError
from rethink.recipe.recipe_files import load_section
from tests.runs.compare import PLACES, same_run

from .test_placement import rethink

FACTS = {"rethink": "1", "ray": "2.60.0", "torch": "2", "python": "3.11", "instructions": "avx2"}


def hosts(*names: Any, **values: Any) -> Hosts:
    listed = [{"host": name} if isinstance(name, str) else name for name in names]
    return Hosts.model_validate({"hosts": listed, "python": "/opt/a b/python", **values})


def told(port: str = "free", **other: str) -> Ended:
    return Ended(0, json.dumps(FACTS | {"port": port} | other), "")


def test_commands_are_quoted_and_go_through_ssh_to_other_machines_alone() -> None:
    two = hosts("127.0.0.1", "localhost", port=7000)
    assert start_command(two, 0)[:4] == ["env", "RAY_AUTH_MODE=token", "/opt/a b/python", "-m"]
    far = hosts({"host": "10.0.0.1", "cpus": 8}, "ann@b", ssh=("-p", "2222"))
    command = start_command(far, 1)
    assert command[:-1] == [
        "ssh", "-o", "BatchMode=yes", "-o", "ConnectTimeout=10", "-p", "2222", "--", "ann@b"
    ]  # fmt: skip
    assert shlex.split(command[-1]) == [
        "env", "RAY_AUTH_MODE=token", "/opt/a b/python", "-m", "ray.scripts.scripts", "start",
        "--disable-usage-stats", "--address=10.0.0.1:6379",
        "--node-ip-address=b",
    ]  # fmt: skip
    head = shlex.split(start_command(far, 0)[-1])
    assert {"--head", "--port=6379", "--num-cpus=8", "--node-ip-address=10.0.0.1"} < set(head)
    assert "--port" in shlex.split(facts_command(far, 0)[-1])
    assert "--port" not in shlex.split(facts_command(far, 1)[-1])
    assert shlex.split(stop_command(far, 1)[-1])[-2:] == ["stop", "10.0.0.1:6379"]


@pytest.mark.parametrize("name", ["-oProxyCommand=x", "a b", "a;b", "", "$(x)"])
def test_a_host_is_never_an_option_or_a_command(name: str, tmp_path: Path) -> None:
    path = tmp_path / "hosts.yaml"
    path.write_text(json.dumps({"hosts": [{"host": name}]}))
    with pytest.raises(RecipeError, match=r"hosts\.0\.host"):
        load_section(path, Hosts)


@pytest.mark.parametrize(
    ("names", "words"), [(("a", "a"), "more than once"), (("localhost", "b"), "which b cannot reach")]
)
def test_lists_that_cannot_be_meant_are_refused(names: tuple[str, ...], words: str, tmp_path: Path) -> None:
    path = tmp_path / "hosts.yaml"
    path.write_text(json.dumps({"hosts": [{"host": name} for name in names]}))
    with pytest.raises(RecipeError, match=words):
        load_section(path, Hosts)


@pytest.mark.parametrize(
    ("second", "words"),
    [
        (Ended(255, "", "x\nssh: connect to host b port 22: refused"), "ssh does not reach b (ssh: connect to host b"),
        (Ended(127, "", "sh: /opt: not found"), "b has no /opt/a b/python"),
        (Ended(1, "", "E\nModuleNotFoundError: No module named 'rethink'"), "install the extra `ray` there"),
        (Ended(-1, "", "it did not end within 60 s"), "b: it did not end within 60 s"),
        (told(ray="2.9"), "ray differs: 2.60.0 on a; 2.9 on b"),
    ],
)
def test_what_a_host_lacks_is_said_by_its_name(second: Ended, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        check(hosts("a", "b"), {0: told(), 1: second})
    assert words in str(caught.value)
    check(hosts("a", "b"), {0: told(), 1: told()})


def test_a_port_in_use_is_said_and_commands_can_be_read_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "hosts.yaml"
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        port = taken.getsockname()[1]
        path.write_text(f"hosts: [{{host: 127.0.0.1}}]\nport: {port}\n")
        assert main.main(["cluster", "up", str(path)]) == 2
        assert f"port {port} of 127.0.0.1 is in use" in capsys.readouterr().err
    assert main.main(["cluster", "up", str(path), "--print"]) == 0
    assert " --head " in capsys.readouterr().out
    assert main.main(["cluster", "down", str(path), "--print"]) == 0
    assert capsys.readouterr().out.endswith(f"stop 127.0.0.1:{port}\n")
    assert main.main(["cluster", "up", str(tmp_path / "none.yaml")]) == 2


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_run_on_two_hosts_that_are_this_machine(recipe_file: Path, two_hosts: Hosts, tmp_path: Path) -> None:
    here = two_hosts
    cluster = tmp_path / "cluster.yaml"
    cluster.write_text(f"address: {here.address}\nworkers: 2\n")
    try:
        up(here, print)
        nodes = ask_nodes(here.address, Question([str(tmp_path)]))
        assert [node.cpus for node in nodes] == [2, 2]
        assert nodes[0].facts["host"] == socket.gethostname()
        assert f"path {tmp_path}" in nodes[1].facts
        with pytest.raises(UsageError, match="is in use"):
            up(here, print)
        rethink("cluster", "plan", recipe_file, cluster, folder=tmp_path)
        rethink("train", recipe_file, "--out", tmp_path / "two", "--cluster", cluster, folder=tmp_path)
    finally:
        said: list[str] = []
        down(here, said.append)
    assert "0 processes" not in said[0]  # of all on this machine; the head has nothing left to end
    rethink("train", recipe_file, "--out", tmp_path / "one", folder=tmp_path)
    same_run(tmp_path / "one", tmp_path / "two", PLACES)
    with pytest.raises(UsageError, match="nothing answers"):
        ask_nodes(here.address)


def test_a_host_that_does_not_end_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    ended = {0: Ended(0, "3\n", ""), 1: Ended(255, "", "no route to host")}
    monkeypatch.setattr(
        "rethink.distributed.launch.run_all", lambda _, commands: {index: ended[index] for index in commands}
    )
    said: list[str] = []
    with pytest.raises(RunFailure, match="ssh does not reach b"):
        down(hosts("a", "b"), said.append)
    assert said == ["a: 3 processes of Ray ended"]
