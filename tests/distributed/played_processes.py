"""What is played in place of Ray's process: in a module of its own, which a new process can import."""

from __future__ import annotations

import os
import signal
import time
from multiprocessing.connection import Connection
from typing import Any

from rethink.distributed.protocol import Hello
from rethink.distributed.transport import Joined, StoreFull
from rethink.errors import UsageError


def killed(*_: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def silent(trainer: Connection, *_: Any) -> None:
    trainer.send([])
    trainer.send([Joined(Hello("w", {"host": "h"}))])
    time.sleep(600)


def full(trainer: Connection, *_: Any) -> None:
    trainer.send([])
    trainer.send(StoreFull("no room"))
    time.sleep(600)


def refused(trainer: Connection, *_: Any) -> None:
    trainer.send(UsageError("nothing answers"))
    time.sleep(600)
