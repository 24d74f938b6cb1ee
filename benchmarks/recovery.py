"""Seconds from the loss of a worker until others have delivered all that it held: a worker that is killed, or a node
that hangs. Two nodes of this machine, one worker of one thread each, SmolLM2-135M.

    python benchmarks/recovery.py
    python benchmarks/recovery.py --loss node --json
"""

import json
import os
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
from pathlib import Path

import common


def struck(worker: int, loss: str) -> list[int]:
    """Processes to strike, by the id of a worker's process: itself, or its node's Ray and all that it has started."""
    import psutil

    if loss == "worker":
        return [worker]
    raylet = psutil.Process(worker).parent()
    while raylet is not None and raylet.name() != "raylet":
        raylet = raylet.parent()
    if raylet is None:
        raise SystemExit("the worker has no raylet above it")
    return [raylet.pid, *(child.pid for child in raylet.children(recursive=True))]


def measure(a) -> None:
    """Ask for completions, strike when all workers draw, and wait for what the one that was struck held."""
    from rethink.distributed.cluster import Cluster
    from rethink.distributed.opening import on_cluster
    from rethink.distributed.watch import Onlooker
    from rethink.machine.placement import Placement
    from rethink.rollout.engines import open_engine
    from rethink.types import GenerationRequest, SamplingParams

    cluster = Cluster(address=a.address, workers=2, threads=1)
    with on_cluster(cluster, Onlooker(lambda text: print(text, file=sys.stderr))):
        opened = open_engine("embedded", Placement(threads=1))
        engine, seeds = opened.engine, tuple(range(a.samples))
        prompt = tuple(opened.checkpoint.tokenizer.encode("The history of the city began when"))
        request = GenerationRequest(prompt, seeds, SamplingParams(max_new_tokens=a.tokens), version=0)
        arrived: dict[int, float] = {}
        engine.submit(1, request, lambda _, sample, __: arrived.setdefault(sample, time.monotonic()))
        ended = threading.Thread(target=lambda: all(iter(engine.step, False)), daemon=True)
        ended.start()
        pool, until = engine.pool, time.monotonic() + cluster.start_seconds
        while not (len(pool.workers) == 2 and all(worker.tokens for worker in list(pool.workers.values()))):
            if time.monotonic() > until:
                raise SystemExit("the workers do not draw")
            time.sleep(0.01)
        victim = max(list(pool.workers.values()), key=lambda worker: len(worker.assigned))
        processes = struck(int(victim.hello.facts["pid"]), a.loss)
        held, at = {sample for _, sample in victim.assigned}, time.monotonic()
        for process in processes:
            os.kill(process, signal.SIGKILL if a.loss == "worker" else signal.SIGSTOP)
        ended.join()
        for process in processes if a.loss == "node" else ():
            os.kill(process, signal.SIGKILL)
        print(json.dumps({"held": len(held), "seconds": max(arrived[sample] for sample in held) - at}))


def main() -> None:
    parser = common.parser(__doc__)
    parser.add_argument("--loss", choices=["worker", "node"], default="worker")
    parser.add_argument("--samples", type=int, default=32, help="completions, half of them at each worker")
    parser.add_argument("--tokens", type=int, default=96, help="most of a completion")
    parser.add_argument("--address", help="used inside")
    a = parser.parse_args()
    if a.address:
        measure(a)
        return
    words = [f"--loss={a.loss}", f"--samples={a.samples}", f"--tokens={a.tokens}"]
    series = common.alternate(a.runs, lambda: on_two_nodes(words), None)
    common.finish("recovery", series, "seconds", a, unit=f"s after the loss of a {a.loss}", higher_is_better=False)


def on_two_nodes(words: list[str]) -> common.Measurement:
    """One measurement, in a Ray of its own."""
    from rethink.distributed.launch import Hosts, down, up

    os.environ["RAY_TMPDIR"] = tempfile.mkdtemp(prefix="ray-")  # a short path, for its sockets
    with socket.socket() as free:
        free.bind(("", 0))
        port = free.getsockname()[1]
    listed = [{"host": name, "cpus": 1} for name in ("127.0.0.1", "localhost")]
    hosts = Hosts.model_validate({"hosts": listed, "port": port, "auth": "disabled", "seconds": 120})
    try:
        up(hosts, lambda text: print(text, file=sys.stderr))
        command = [sys.executable, __file__, *words, f"--address={hosts.address}"]
        return common.run_json(command, RAY_AUTH_MODE="disabled", OMP_NUM_THREADS="1")
    finally:
        down(hosts, lambda text: None)
        shutil.rmtree(Path(os.environ["RAY_TMPDIR"]), ignore_errors=True)


if __name__ == "__main__":
    main()
