"""Ray itself: started or joined, and watched. Only processes of their own import it (`ray_process.py`,
`rank_nodes.py`), and workers.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable

from rethink.distributed.clock import RunningClock
from rethink.distributed.cluster import Cluster
from rethink.distributed.joining import ray_module, start_or_join
from rethink.distributed.layout import Demand, lay_out, strange
from rethink.distributed.nodes import Question, nodes_of
from rethink.errors import UsageError

ASK_SECONDS, ILL_SECONDS = 1.0, 10.0
"""How often Ray's control service is asked whether it is there; and after how long without an answer it is given up.
(Ray gives it up, and ends its process, after a minute.)"""
UNKNOWN = Demand(driver_threads=0, driver_bytes=None, worker_bytes=None)
"""What a run needs is said before it by `rethink cluster plan`; here the nodes alone are looked at."""


class RayCluster:
    """The Ray that a run uses.

    Args:
        cluster: the cluster file.
        asked: what each machine must have.
        note: told what a user should know of the machines.
        demand: what the run needs.
    """

    def __init__(self, cluster: Cluster, asked: Question, note: Callable[[str], None], demand: Demand = UNKNOWN):
        self.cluster, self._question, self._note, self._demand = cluster, asked, note, demand
        self._nodes: bool | None = None
        """What Ray's control service said since the last look: whether a node lives; None: nothing."""
        self._clock, self._answered = RunningClock(), 0.0
        self._asked = False
        self._closed = threading.Event()

    def connect(self) -> None:
        """Start or join Ray, and begin to ask it whether it is there.

        Raises:
            UsageError: Ray is not installed, does not answer, has too few processors, or nodes differ.
        """
        cluster = self.cluster
        start_or_join(cluster.address, cluster.workers * cluster.threads)
        if cluster.address != "local":
            every = nodes_of(ray_module(), self._question)
            nodes = [node for node in every if "error" not in node.facts]  # others serve
            if every and not nodes:
                raise UsageError(f"the cluster cannot serve the run. {'. '.join(strange(every))}.")
            found = lay_out(cluster, nodes, self._demand, here="")
            if found.missing:
                raise UsageError(f"the cluster cannot serve the run. {'. '.join(found.missing)}")
            for caution in found.cautions:
                self._note(f"{caution}.")
        self._asked = True
        threading.Thread(target=self._ask, name="ray asked", daemon=True).start()

    def disconnect(self) -> None:
        """End what this run started of it."""
        self._closed.set()
        with contextlib.suppress(Exception):
            ray_module().shutdown()

    def ill(self) -> str | None:
        """What is wrong with Ray once it is joined; None: nothing. One thread asks this, about once a second."""
        now, said, self._nodes = self._clock.now(), self._nodes, None
        if said is False:
            return "it has no machine left: its raylet has ended, or does not answer"
        if said or not self._asked:
            self._answered = now
        if now - self._answered > ILL_SECONDS:
            return f"its control service (gcs_server) has not answered for {ILL_SECONDS:.0f} s"
        return None

    def _ask(self) -> None:
        """Ask Ray's control service for its nodes now and then. A call that hangs is an answer too: none."""
        ray = ray_module()
        while not self._closed.wait(ASK_SECONDS):
            with contextlib.suppress(Exception):
                self._nodes = any(node["Alive"] for node in ray.nodes())
