"""Ray itself: started or joined, and watched. Only the process of `ray_process.py` and workers import it."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from typing import Any

from rethink.distributed.cluster import Cluster
from rethink.errors import UsageError

ASK_SECONDS, ILL_SECONDS = 3.0, 15.0
"""How often Ray's control service is asked whether it is there; and after how long without an answer it is given up.
(Ray gives it up, and ends its process, after a minute.)"""
SETTINGS = {
    "health_check_initial_delay_ms": 2000,
    "health_check_period_ms": 1000,
    "health_check_timeout_ms": 2000,
    "health_check_failure_threshold": 3,
}
QUIET = {"log_to_driver": False, "configure_logging": False}


def ray_module() -> Any:
    """Ray.

    Raises:
        UsageError: it is not installed.
    """
    try:
        import ray
    except ImportError:
        raise UsageError(
            "`--cluster` needs Ray, which is not installed. Install it with `pip install 'rethink[ray]'`"
        ) from None
    return ray


class RayCluster:
    """The Ray that a run uses."""

    def __init__(self, cluster: Cluster):
        self.cluster = cluster
        self._answered = 0.0
        self._watched = threading.Event()

    def connect(self) -> None:
        """Start or join Ray, and begin to watch it.

        Raises:
            UsageError: Ray is not installed, does not answer, or has too few processors.
        """
        self._join()
        self._check_room()
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

    def _join(self) -> None:
        ray, cluster = ray_module(), self.cluster
        if cluster.address == "local":
            processors = max(os.cpu_count() or 1, cluster.workers * cluster.threads)
            options = {"num_cpus": processors, "include_dashboard": False, "_system_config": SETTINGS}
        else:
            options = {"address": cluster.address}
        try:
            ray.init(**options, **QUIET)
        except (ConnectionError, RuntimeError, OSError, TimeoutError, ValueError) as error:
            raise UsageError(
                f"the Ray cluster at `{cluster.address}` does not answer ({error}). Start it (`ray start --head`, and "
                "`ray start --address=HOST:PORT` on the other machines), or write `address: local`"
            ) from error
        self._answered = time.monotonic()

    def _check_room(self) -> None:
        cluster, there = self.cluster, float(ray_module().cluster_resources().get("CPU", 0))
        if cluster.workers * cluster.threads > there:
            raise UsageError(
                f"the cluster file wants {cluster.workers} workers of {cluster.threads} threads, and the cluster has "
                f"{there:.0f} processors; lower `workers` or `threads`, or add machines"
            )

    def _watch(self) -> None:
        """Ask Ray's control service now and then. A call that hangs is an answer too: none."""
        ray = ray_module()
        while not self._watched.wait(ASK_SECONDS):
            with contextlib.suppress(Exception):
                if any(node["Alive"] for node in ray.nodes()):
                    self._answered = time.monotonic()
