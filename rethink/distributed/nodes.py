"""The machines of a cluster, asked through Ray or, where Ray does not run yet, looked at directly."""

from __future__ import annotations

import multiprocessing
import os
import socket
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from rethink.distributed.host import MISSING, facts
from rethink.distributed.joining import START, ray_module, start_or_join
from rethink.distributed.layout import Node
from rethink.distributed.other_python import SECONDS, facts_of
from rethink.errors import RethinkError, UsageError
from rethink.store.atomic import TEMPORARY, storage_errors

ANSWER_SECONDS = 5.0
"""How long an address may take to answer at all."""
FACTS_SECONDS = 20.0
"""How long a node may take to say what it is."""
ASK_SECONDS = 60.0
"""How long the process that asks them may take, where no other Python is asked."""


def check_answers(address: str) -> None:
    """Try a cluster's address, before anything slow; `local` and `auto` are none.

    Raises:
        UsageError: it is no address, or nothing answers there.
    """
    if address in ("local", "auto"):
        return
    host, colon, port = address.rpartition(":")
    if not (colon and host and port.isdecimal() and 0 < int(port) < 65536):
        raise UsageError(
            f"`address: {address}` is no address. Write `local`, `auto`, or the head's HOST:PORT (Ray's usual port is "
            "6379)"
        )
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWER_SECONDS).close()
    except OSError as error:
        raise UsageError(f"nothing answers at `{address}` ({error.strerror or error}). {START}") from error


@dataclass(frozen=True, slots=True)
class Question:
    """What each machine is asked of a worker's place there."""

    paths: Sequence[str] = ()
    """Files or folders that it looks for."""
    python: str | None = None
    """The Python of workers; None: that of the driver."""
    engines: Sequence[str] = ()
    """Names of engines that it is to have."""


NOTHING = Question()


def this_machine(asked: Question = NOTHING) -> Node:
    """This machine as the only node."""
    from rethink.machine.limits import memory

    if asked.python is None:
        found = facts(asked.paths, engines=asked.engines)
    else:
        found = facts_of(asked.python, asked.paths, asked.engines)
    return Node(socket.gethostname(), float(os.cpu_count() or 1), memory().available, found)


def nodes_of(ray: Any, asked: Question = NOTHING) -> list[Node]:
    """The live nodes of the Ray that this process is connected to; each is asked what it is.

    Args:
        ray: the module.
        asked: see `Question`.
    """
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    alive = [node for node in ray.nodes() if node["Alive"]]
    asking = ray.remote(facts)
    at = [NodeAffinitySchedulingStrategy(node["NodeID"], soft=False) for node in alive]
    other = {} if asked.python is None else {"runtime_env": {"py_executable": asked.python}}
    calls = [
        asking.options(num_cpus=0, max_retries=0, scheduling_strategy=node, **other).remote(
            asked.paths, engines=asked.engines
        )
        for node in at
    ]
    ray.wait(calls, num_returns=len(calls), timeout=FACTS_SECONDS if asked.python is None else SECONDS)
    found = [_node(ray, node, call) for node, call in zip(alive, calls, strict=True)]
    seen: Counter[str] = Counter()
    for index, node in enumerate(found):  # a machine may have several
        seen[node.name] += 1
        if seen[node.name] > 1:
            found[index] = replace(node, name=f"{node.name} #{seen[node.name]}")
    return found


def check_shared(address: str, out: Path) -> None:
    """Whether all machines of a cluster see what this one writes to a folder, which need not be there yet.

    Raises:
        UsageError: a machine does not; or see `ask_nodes`.
    """
    folder = next(path for path in (out.absolute(), *out.absolute().parents) if path.is_dir())
    with storage_errors(folder), tempfile.NamedTemporaryFile(dir=folder, prefix=f".rethink{TEMPORARY}") as seen:
        nodes = ask_nodes(address, Question([seen.name]))
    if lacking := [node.name for node in nodes if node.facts.get(f"path {seen.name}") == MISSING]:
        raise UsageError(
            f"`{folder}` is not shared: {', '.join(lacking)} does not see what is written there, and workers load the "
            "models of a pipeline's earlier stages from `--out`. Give an `--out` in a folder that all machines share"
        )


def ask_nodes(address: str, asked: Question = NOTHING) -> list[Node]:
    """The nodes of the cluster at an address, asked in a process of its own: Ray may end a process that uses it.

    Raises:
        UsageError: Ray is not installed, or does not answer.
    """
    check_answers(address)
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_ask, args=(theirs, address, asked), daemon=True)
    process.start()
    theirs.close()
    try:
        said = ours.recv() if ours.poll(ASK_SECONDS + (SECONDS if asked.python else 0)) else None
    except EOFError:
        said = None
    finally:
        process.kill()
    if isinstance(said, RethinkError):
        raise said
    if said is None:
        raise UsageError(f"what answers at `{address}` is no Ray that can be used. {START}")
    found: list[Node] = said
    return found


def _ask(asker: Connection, address: str, asked: Question) -> None:
    try:
        start_or_join(address, 0)
        asker.send(nodes_of(ray_module(), asked))
    except RethinkError as error:
        asker.send(error)


def _node(ray: Any, node: dict[str, Any], call: Any) -> Node:
    resources = node["Resources"]
    try:
        said = ray.get(call, timeout=0)
    except Exception as error:  # of any kind: it is told, and keeps nobody from being seen
        said = {"error": f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[-1]}"[:300]}
    memory = resources.get("memory")
    return Node(
        f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']})",
        float(resources.get("CPU", 0)),
        None if memory is None else int(memory),
        said,
    )
