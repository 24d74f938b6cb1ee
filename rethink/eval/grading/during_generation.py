"""Grading during generation: threads grade replies while the model continues; the calling thread stores them.

    reply ─► a thread grades it ─► kept with the next reply, or at the end

Where graders fall behind by `MOST_OPEN`, the model waits for them, so that a kill loses little.
"""

from __future__ import annotations

import os
import queue
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType

from rethink.eval.backend import OnReply, Reply
from rethink.eval.benchmark import Grader
from rethink.eval.sample_files import Sample

MOST_OPEN = 64
"""Replies that wait for their grader at most."""
MOST_THREADS = 8
GRACE = 10.0
"""Seconds that replies still open get when an evaluation is stopped; what is not judged then is drawn again."""

Judged = Callable[[int, int, Reply], Sample]
"""(number of the problem, which of its samples, reply) -> the sample with its verdict."""
Keep = Callable[[Sample, float], None]
"""(sample, seconds of generation since the reply before), called in the thread that takes the replies."""


class Judging:
    """Grades replies while the model continues; a context manager, whose exit waits for open replies.

    Args:
        grader: says whether several threads may grade at once.
        judged: grades one reply; must not raise.
        keep: takes each sample, in the order in which grading ends.
    """

    def __init__(self, grader: Grader, judged: Judged, keep: Keep):
        threads = min(MOST_THREADS, len(os.sched_getaffinity(0))) if grader.threads else 1
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="judging")
        self._judged, self._keep = judged, keep
        self._ended: queue.SimpleQueue[tuple[Future[Sample], float]] = queue.SimpleQueue()
        self._open = 0

    def __enter__(self) -> Judging:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        try:
            until = None if kind is None else time.monotonic() + GRACE
            while self._open and self._take(until):
                pass
        finally:
            self._threads.shutdown(wait=False, cancel_futures=True)

    def takes(self, chunk: Sequence[tuple[int, Sequence[int]]]) -> OnReply:
        """What takes the replies to a chunk of (number of the problem, which of its samples); its clock starts now."""
        since = time.perf_counter()

        def reply_came(request: int, place: int, reply: Reply) -> None:
            nonlocal since
            seconds = time.perf_counter() - since
            number, samples = chunk[request]
            future = self._threads.submit(self._judged, number, samples[place], reply)
            self._open += 1
            future.add_done_callback(lambda done: self._ended.put((done, seconds)))
            while self._open and (self._open >= MOST_OPEN or not self._ended.empty()):
                self._take(None)
            since = time.perf_counter()  # what was waited for just now is not the model's time

        return reply_came

    def _take(self, until: float | None) -> bool:
        """Keep the next sample whose grading ends; False where none does until then (on `time.monotonic`)."""
        try:
            future, seconds = self._ended.get(timeout=None if until is None else max(0.0, until - time.monotonic()))
        except queue.Empty:
            return False
        self._open -= 1
        self._keep(future.result(), seconds)
        return True
