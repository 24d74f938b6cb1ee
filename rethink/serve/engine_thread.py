"""The engine's thread: it alone touches the model. Tickets come in under a lock, events leave through the event loop.

    submit ─► waiting ─► (at most a pass of prompt tokens between two steps) ─► engine.step ─► events ─► mailboxes
                └──────► texts to be scored, as many as make a pass, between two steps

Tokens of streams are handed over together, the less often the more streams there are: a wake-up of the event loop costs
the same for one token as for ten.
"""

from __future__ import annotations

import asyncio
import itertools
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from rethink.errors import EngineFailure, UsageError
from rethink.kernels.paged import PAGE
from rethink.model.decoder.config import DecoderConfig
from rethink.rollout.decoding import PREFILL_TOKENS, RunningSequence
from rethink.rollout.engines.torch import TorchEngine
from rethink.rollout.pages import PoolPlan, bytes_per_page, pages_of
from rethink.serve.api_errors import ApiError
from rethink.serve.scoring import score_texts, token_logprobs_with_top
from rethink.serve.tickets import SCORED, Event, Ticket
from rethink.terminal import say
from rethink.types import Completion

SECONDS_PER_STREAM = 0.003
"""Pause between two deliveries, for each stream that runs: delivering takes a small share of the time then."""


def plan_server(
    config: DecoderConfig, dtype: torch.dtype, budget_bytes: int, max_concurrent: int, max_model_len: int
) -> PoolPlan:
    """Pages for `max_concurrent` sequences of the greatest length, or as many as the budget allows.

    Raises:
        UsageError: not even one sequence fits.
    """
    page = bytes_per_page(config, dtype)
    allowed, longest = budget_bytes // page, pages_of(max_model_len) + 1  # the page where a prompt ends is copied
    if longest > allowed:
        raise UsageError(
            f"one sequence of {max_model_len} tokens needs {longest * page / 2**20:.1f} MiB for its keys and values, "
            f"but the KV budget is {budget_bytes / 2**20:.1f} MiB; raise --kv-budget-gb, or lower --max-model-len to "
            f"{max(allowed - 1, 0) * PAGE} or less"
        )
    return PoolPlan(min(allowed, longest * max_concurrent), max_concurrent, pages_of(max_model_len))


class EngineThread:
    """Generates and scores for all requests of the server.

    Args:
        engine: used by the thread alone while that runs.
        plan: memory and places; see `plan_server`.
        max_queue: samples that may wait beside those that run.
        threads: of torch; None leaves them.
    """

    def __init__(self, engine: TorchEngine, plan: PoolPlan, *, max_queue: int, threads: int | None = None):
        self.plan = plan
        self.capacity = plan.sequences + max_queue
        """Most samples that run or wait."""
        self.failed = False
        self._engine, self._threads = engine, threads
        engine.reserve(plan)
        engine.on_draw = self._drawn
        self._lock = threading.Condition()
        self._waiting: deque[Ticket] = deque()
        self._texts: deque[Ticket] = deque()
        self._tickets: dict[int, Ticket] = {}
        """All that are under way, by key."""
        self._cancelled: list[int] = []
        self._places = 0
        self._keys = itertools.count()
        self._stopping = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._ready: list[tuple[Ticket, Event]] = []
        self._delivered = 0.0

    # Called from the event loop

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Start the thread, whose events go to the loop."""
        assert self._thread is None, "the engine's thread serves one event loop at a time"
        self._loop, self._stopping = loop, False
        self._thread = threading.Thread(target=self._main, name="engine", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread after its present step; what is under way is dropped."""
        with self._lock:
            self._stopping = True
            self._lock.notify()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def submit(self, tickets: Sequence[Ticket]) -> None:
        """Take all tickets or none.

        Raises:
            ApiError: 400 where they could never fit, 429 where too many wait, 503 where the engine has failed.
        """
        places = sum(ticket.places for ticket in tickets)
        self.check_places(places)
        with self._lock:
            if self.failed or self._stopping:
                raise ApiError(503, "the engine is not running", code="engine_stopped")
            if self._places + places > self.capacity:
                raise ApiError(
                    429,
                    f"{self._places} completions run or wait, and this server holds at most {self.capacity}; try again "
                    "later",
                    code="queue_full",
                    headers={"Retry-After": "1"},
                )
            self._places += places
            for ticket in tickets:
                ticket.key = next(self._keys)
                self._tickets[ticket.key] = ticket
                (self._texts if ticket.request is None else self._waiting).append(ticket)
            self._lock.notify()

    def check_places(self, places: int) -> None:
        """Refuse what could never fit, before any work is put into it.

        Raises:
            ApiError: 400.
        """
        if places > self.capacity:
            raise ApiError(
                400,
                f"the request asks for {places} completions (and scored texts) at once, and this server holds at most "
                f"{self.capacity}; split it",
                code="too_many_completions",
            )

    def cancel(self, tickets: Iterable[Ticket]) -> None:
        """Drop the unfinished parts of the tickets. Nothing more is sent for them after the current step."""
        with self._lock:
            for ticket in tickets:
                if ticket.key not in self._tickets:
                    continue
                self._forget(ticket)
                queue = self._texts if ticket.request is None else self._waiting
                if ticket in queue:
                    queue.remove(ticket)
                else:
                    self._cancelled.append(ticket.key)
            self._lock.notify()

    def counts(self) -> dict[str, int]:
        """What `/health` tells."""
        return {
            "running": len(self._engine.running),
            "waiting": len(self._waiting) + len(self._texts),
            "pages": self.plan.pages,
            "pages_free": self.plan.pages - self._engine.pages_used,
        }

    # The thread

    def _main(self) -> None:
        try:
            if self._threads is not None:
                torch.set_num_threads(self._threads)  # OpenMP counts by the thread that calls
            with torch.inference_mode():
                self._engine.prepare()
                while self._turn():
                    pass
            self._fail_all(ApiError(503, "the server is stopping", code="engine_stopped"))
        except BaseException as error:
            say("".join(traceback.format_exception(error)), file=sys.stderr, end="", flush=True)
            self.failed = True
            self._fail_all(EngineFailure(f"the engine's thread ended ({type(error).__name__}: {error})"))

    def _turn(self) -> bool:
        """Take what came, score a pass of texts, decode a step, tell. False once the thread is to end."""
        engine = self._engine
        with self._lock:
            while not (self._stopping or self._cancelled or self._waiting or self._texts or engine.busy):
                self._lock.wait()
            if self._stopping:
                return False
            cancelled, self._cancelled = self._cancelled, []
            started, texts = self._arrivals(), self._pass_of_texts()
        try:
            for key in cancelled:
                engine.cancel(key)
            for ticket in started:
                assert ticket.request is not None
                engine.submit(ticket.key, ticket.request, self._finished)
            if texts:
                self._score(texts)
            engine.step()
        except Exception as error:
            if not isinstance(error, EngineFailure):
                say("".join(traceback.format_exception(error)), file=sys.stderr, end="", flush=True)
            say(f"rethink serve: all requests under way failed: {error}", file=sys.stderr, flush=True)
            engine.abandon()
            self._fail_all(error.with_traceback(None))  # frames hold the pages
        self._collect()
        self._deliver()
        return True

    def _arrivals(self) -> list[Ticket]:
        """Tickets that can start now: a pass of prompt tokens at most, so that streams do not stall."""
        started: list[Ticket] = []
        if self._engine.waiting:
            return started  # those before them wait for room
        places, tokens = self.plan.sequences - len(self._engine.running), 0
        while self._waiting and places > 0 and (not started or tokens < PREFILL_TOKENS):
            ticket = self._waiting.popleft()
            started.append(ticket)
            places, tokens = places - ticket.places, tokens + ticket.prompt_tokens
        return started

    def _pass_of_texts(self) -> list[Ticket]:
        """The first texts that wait, while they fit one pass; they share the number of alternatives."""
        chosen: list[Ticket] = []
        tokens = 0
        while self._texts and self._texts[0].top == (chosen or self._texts)[0].top:
            tokens += self._texts[0].prompt_tokens
            if chosen and tokens > PREFILL_TOKENS:
                break
            chosen.append(self._texts.popleft())
        return chosen

    def _score(self, texts: Sequence[Ticket]) -> None:
        engine = self._engine
        scored = score_texts(engine.model, engine.packed, [t.text_ids for t in texts], texts[0].top or 0)
        for ticket, logprobs in zip(texts, scored, strict=True):
            self._ready.append((ticket, Event(ticket.number, SCORED, logprobs=logprobs)))

    def _drawn(self, logits_BV: Tensor, sequences: Sequence[RunningSequence]) -> None:
        """Keep the log-probabilities of the newest tokens where they are wanted."""
        wanted: list[tuple[int, RunningSequence, Ticket]] = []
        for row, sequence in enumerate(sequences):
            ticket = self._tickets.get(sequence.key)
            if ticket is not None and ticket.top is not None:
                wanted.append((row, sequence, ticket))
        if not wanted:
            return
        rows = torch.tensor([row for row, _, _ in wanted], device=logits_BV.device)
        tokens = torch.tensor([s.tokens[-1] for _, s, _ in wanted], device=logits_BV.device)
        found = token_logprobs_with_top(logits_BV[rows], tokens, max(t.top or 0 for _, _, t in wanted))
        for entry, (_, sequence, ticket) in zip(found, wanted, strict=True):
            ticket.logprobs[sequence.index].append(entry)

    def _finished(self, key: int, sample: int, completion: Completion) -> None:
        ticket = self._tickets.get(key)
        if ticket is not None:
            self._ready.append((ticket, ticket.event(sample, completion.token_ids.tolist(), completion)))

    def _collect(self) -> None:
        """Add what streams have to be told: first tokens at once, others when the pause is over."""
        now, running = time.perf_counter(), self._engine.running
        due = now - self._delivered >= SECONDS_PER_STREAM * len(running)
        if due:
            self._delivered = now
        for sequence in running:
            ticket = self._tickets.get(sequence.key)
            if ticket is not None and ticket.streams and (due or not ticket.seen[sequence.index]):
                self._ready.append((ticket, ticket.event(sequence.index, list(sequence.tokens))))

    def _deliver(self) -> None:
        """Hand everything over in one call of the loop."""
        if not self._ready:
            return
        ready, self._ready = self._ready, []
        with self._lock:
            for ticket, event in ready:
                if event.last:
                    ticket.left -= 1
                    if not ticket.left and ticket.key in self._tickets:
                        self._forget(ticket)
        self._hand_over(ready)

    def _fail_all(self, error: Exception) -> None:
        with self._lock:
            tickets = list(self._tickets.values())
            self._tickets.clear()
            self._waiting.clear()
            self._texts.clear()
            self._cancelled.clear()
            self._places = 0
            self._ready.clear()
        self._hand_over([(ticket, Event(ticket.number, 0, failure=error)) for ticket in tickets])

    def _forget(self, ticket: Ticket) -> None:
        del self._tickets[ticket.key]
        self._places -= ticket.places

    def _hand_over(self, events: list[tuple[Ticket, Event]]) -> None:
        assert self._loop is not None
        try:
            self._loop.call_soon_threadsafe(_put_all, events)
        except RuntimeError:  # the loop is closed: nobody is left to be told
            self._stopping = True


def _put_all(events: list[tuple[Ticket, Event]]) -> None:
    for ticket, event in events:
        ticket.mailbox.put(event)
