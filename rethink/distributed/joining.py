"""Ray: imported, started or joined. Nothing else of Rethink does that."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from rethink.errors import UsageError, how_to_install

SETTINGS = {
    "health_check_initial_delay_ms": 2000,
    "health_check_period_ms": 1000,
    "health_check_timeout_ms": 2000,
    "health_check_failure_threshold": 3,
    "prestart_worker_first_driver": False,  # a process for each processor, which no worker of ours ever uses
}
QUIET = {"log_to_driver": False, "configure_logging": False}
START = (
    "Start Ray (`rethink cluster up HOSTS_FILE`, or `ray start --head` there and `ray start --address=HOST:PORT` on "
    "the other machines), or write `address: local`"
)


def ray_module() -> Any:
    """Ray.

    Raises:
        UsageError: it is not installed.
    """
    try:
        import ray
    except ImportError:
        raise UsageError(
            f"`--cluster` needs Ray, which is not installed. Install it with {how_to_install('ray')}"
        ) from None
    return ray


def start_or_join(address: str, processors: int) -> None:
    """Start Ray on this machine (`local`), or join the one that runs.

    Args:
        address: see `Cluster.address`.
        processors: that workers of this machine take together, though it may have fewer.

    Raises:
        UsageError: Ray is not installed, does not answer, or is of another version.
    """
    if address != "local":
        _show_token()
    ray = ray_module()
    if address == "local":
        processors = max(os.cpu_count() or 1, processors)
        options = {"address": "local", "num_cpus": processors, "include_dashboard": False, "_system_config": SETTINGS}
    else:
        options = {"address": address}
    try:
        ray.init(**options, **QUIET)
    except (ConnectionError, RuntimeError, OSError, TimeoutError, ValueError) as error:
        if "Version mismatch" in str(error):
            versions = " ".join(str(error).split())
            raise UsageError(
                f"the Ray at `{address}` is of other versions ({versions}). Install the same Ray and Python everywhere"
            ) from error
        raise UsageError(f"the Ray cluster at `{address}` does not answer ({error}). {START}") from error


def _show_token() -> None:
    """Have Ray use this user's token, where there is one, as `ray start` and `auto` do; before it is imported."""
    named = "RAY_AUTH_TOKEN" in os.environ or "RAY_AUTH_TOKEN_PATH" in os.environ
    if named or (Path.home() / ".ray" / "auth_token").exists():
        os.environ.setdefault("RAY_AUTH_MODE", "token")
