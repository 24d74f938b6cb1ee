"""Ray itself: started or joined, and watched. Only the process of `ray_process.py` and workers import it."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Sequence

from rethink.distributed.cluster import Cluster
from rethink.distributed.joining import ray_module, start_or_join
from rethink.distributed.layout import Demand, lay_out
from rethink.distributed.nodes import nodes_of
from rethink.errors import UsageError

ASK_SECONDS, ILL_SECONDS = 3.0, 15.0
"""How often Ray's control service is asked whether it is there; and after how long without an answer it is given up.
(Ray gives it up, and ends its process, after a minute.)"""
UNKNOWN = Demand(driver_threads=0, driver_bytes=None, worker_bytes=None)
"""What a run needs is said before it by `rethink cluster plan`; here the nodes alone are looked at."""


class RayCluster:
    """The Ray that a run uses.

    Args:
        cluster: the cluster file.
        paths: files or folders that every worker reads.
    """

    def __init__(self, cluster: Cluster, paths: Sequence[str] = ()):
        self.cluster, self._paths = cluster, paths
        self._answered = 0.0
        self._watched = threading.Event()

    def connect(self) -> None:
        """Start or join Ray, and begin to watch it.

        Raises:
            UsageError: Ray is not installed, does not answer, has too few processors, or nodes differ.
        """
        cluster = self.cluster
        start_or_join(cluster.address, cluster.workers * cluster.threads)
        self._answered = time.monotonic()
        if cluster.address != "local":
            nodes = [node for node in nodes_of(ray_module(), self._paths) if "error" not in node.facts]  # others serve
            found = lay_out(cluster, nodes, UNKNOWN, here="")
            if found.missing:
                raise UsageError(f"the cluster cannot serve the run. {'. '.join(found.missing)}")
        threading.Thread(target=self._watch, name="ray watch", daemon=True).start()

    def disconnect(self) -> None:
        """End what this run started of it."""
        self._watched.set()
        with contextlib.suppress(Exception):
            ray_module().shutdown()

    @property
    def ill(self) -> bool:
        """Whether Ray's control service has not answered for too long."""
        return time.monotonic() - self._answered > ILL_SECONDS

    def _watch(self) -> None:
        """Ask Ray's control service now and then. A call that hangs is an answer too: none."""
        ray = ray_module()
        while not self._watched.wait(ASK_SECONDS):
            with contextlib.suppress(Exception):
                if any(node["Alive"] for node in ray.nodes()):
                    self._answered = time.monotonic()
