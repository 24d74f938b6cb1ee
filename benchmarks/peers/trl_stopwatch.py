"""The seconds of each step of a TRL trainer, and what it logs. It runs under the peer's Python."""

import json
import time
from collections.abc import Callable

from transformers import TrainerCallback


class Stopwatch(TrainerCallback):
    """Collects the seconds of each step and what TRL logs of it, and shows both.

    Args:
        key: of the log, that a step's has and others have not; it is shown.
        also: what else is shown of the latest step.
    """

    def __init__(self, key: str, also: Callable[[], dict] = dict):
        self.seconds, self.logs = [], []
        self._key, self._also = key, also

    def on_step_begin(self, *_, **__):
        self.started = time.perf_counter()

    def on_step_end(self, *_, **__):
        self.seconds.append(time.perf_counter() - self.started)

    def on_log(self, args, state, control, logs=None, **_):
        if self._key in logs:
            self.logs.append(logs)
            seconds = self.seconds[-1] if self.seconds else None
            shown = {"step": len(self.logs), self._key: float(logs[self._key]), **self._also(), "seconds": seconds}
            print(json.dumps(shown), flush=True)
