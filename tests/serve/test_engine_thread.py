"""The engine's thread: its queue, cancelling, failures, its end."""

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import torch
from starlette.testclient import TestClient

from rethink.errors import UsageError
from rethink.model.decoder.decoder import Decoder
from rethink.model.loading import Checkpoint
from rethink.serve.api_errors import ApiError
from rethink.serve.app import Service, make_app
from rethink.serve.connection import ClientGone, unless_gone
from rethink.serve.engine_thread import EngineThread, plan_server
from rethink.serve.tickets import Event, Mailbox, Ticket
from rethink.types import GenerationRequest, SamplingParams
from tests.serve.conftest import CONTEXT, MODEL

SECONDS = 60


def ticket(mailbox: Mailbox, n: int = 1, tokens: int = 200, **options: Any) -> Ticket:
    request = GenerationRequest((5, 6, 7), tuple(range(n)), SamplingParams(max_new_tokens=tokens))
    return Ticket(0, mailbox, request=request, **options)


def with_engine(engine: EngineThread, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run the work in an event loop that the engine's events go to."""

    async def run() -> None:
        engine.start(asyncio.get_running_loop())
        try:
            await asyncio.wait_for(work(), SECONDS)
        finally:
            await asyncio.to_thread(engine.stop)

    asyncio.run(run())


async def ends(mailbox: Mailbox, number: int) -> list[Event]:
    """All events up to the last of so many samples."""
    events: list[Event] = []
    while sum(e.last or e.failure is not None for e in events) < number:
        events += await mailbox.take()
    return events


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.01)


def idle(engine: EngineThread) -> bool:
    counts = engine.counts()
    return (counts["running"], counts["waiting"], engine._places) == (0, 0, 0) and (
        counts["pages"] == counts["pages_free"]
    )


def test_a_full_queue_is_429_and_becomes_free_again(make: Callable[..., Service]) -> None:
    engine = make(max_concurrent=2, max_queue=3).engine

    async def work() -> None:
        mailbox = Mailbox()
        kept = [ticket(mailbox, n=2), ticket(mailbox, n=3)]
        engine.submit(kept)
        for wanted in (1, 5):
            with pytest.raises(ApiError) as full:
                engine.submit([ticket(Mailbox(), n=wanted)])
            assert full.value.status == 429
            assert full.value.headers == {"Retry-After": "1"}
        with pytest.raises(ApiError) as never:
            engine.submit([ticket(Mailbox(), n=6)])
        assert never.value.status == 400
        assert len([e for e in await ends(mailbox, 5) if e.completion is not None]) == 5
        await until(lambda: idle(engine))
        engine.submit([ticket(mailbox, n=5, tokens=2)])
        await ends(mailbox, 5)

    with_engine(engine, work)


def test_what_is_cancelled_leaves_room_at_once(make: Callable[..., Service]) -> None:
    engine = make(max_concurrent=2, max_queue=2).engine

    async def work() -> None:
        for _ in range(20):
            mailbox = Mailbox()
            tickets = [ticket(mailbox, streams=True), ticket(mailbox, n=3)]
            engine.submit(tickets)
            await mailbox.take()
            engine.cancel(tickets)
            engine.cancel(tickets)
            assert engine._places == 0
        await until(lambda: idle(engine))
        assert not engine._tickets
        assert not engine._cancelled

    with_engine(engine, work)


def test_streams_get_first_tokens_at_once_and_all_of_them_in_order(make: Callable[..., Service]) -> None:
    engine = make().engine

    async def work() -> None:
        mailbox = Mailbox()
        engine.submit([ticket(mailbox, n=3, streams=True)])
        events = await ends(mailbox, 3)
        for sample in range(3):
            mine = [e for e in events if e.sample == sample]
            completion = mine[-1].completion
            assert completion is not None
            assert len(mine) > 3
            assert len(mine[0].token_ids) <= 2  # drawn with the prompt, and in the step that follows
            assert [t for e in mine for t in e.token_ids] == completion.token_ids.tolist()

    with_engine(engine, work)


def test_a_failure_is_told_and_the_next_request_works(
    make: Callable[..., Service], tiny: tuple[Checkpoint, Decoder]
) -> None:
    engine, weight = make().engine, tiny[1].final_norm
    kept = weight.detach().clone()

    async def work() -> None:
        mailbox = Mailbox()
        engine.submit([ticket(mailbox, n=2, tokens=3)])
        good = [e.token_ids for e in await ends(mailbox, 2)]
        with torch.no_grad():
            weight.fill_(float("nan"))
        engine.submit([ticket(mailbox, n=2), Ticket(1, mailbox, text_ids=(3, 4))])
        failures = [e for e in await ends(mailbox, 2) if e.failure is not None]
        assert failures
        with torch.no_grad():
            weight.copy_(kept)
        await until(lambda: idle(engine))
        engine.submit([ticket(mailbox, n=2, tokens=3)])
        assert [e.token_ids for e in await ends(mailbox, 2) if e.completion] == good

    try:
        with_engine(engine, work)
    finally:
        with torch.no_grad():
            weight.copy_(kept)


@pytest.mark.parametrize("stream", [False, True])
def test_a_failure_is_a_500_in_their_shape(service: Service, tiny: tuple[Checkpoint, Decoder], stream: bool) -> None:
    weight = tiny[1].final_norm
    kept = weight.detach().clone()
    body = {"model": MODEL, "prompt": "hello", "stream": stream}
    with TestClient(make_app(service), raise_server_exceptions=False) as client:
        try:
            with torch.no_grad():
                weight.fill_(float("nan"))
            answer = client.post("/v1/completions", json=body)
        finally:
            with torch.no_grad():
                weight.copy_(kept)
        if stream:
            assert '"engine_failure"' in answer.text
            assert answer.text.endswith("data: [DONE]\n\n")
        else:
            assert answer.status_code == 500
            assert answer.json()["error"]["code"] == "engine_failure"
            assert answer.json()["error"]["type"] == "server_error"
        assert client.post("/v1/completions", json=body).status_code == 200


def test_an_engine_that_has_ended_refuses(make: Callable[..., Service], monkeypatch: pytest.MonkeyPatch) -> None:
    service = make()

    def broken(*_: Any) -> None:
        raise MemoryError("no pages")

    monkeypatch.setattr("rethink.rollout.decoding._new_caches", broken)
    with TestClient(make_app(service), raise_server_exceptions=False) as client:
        deadline = time.monotonic() + SECONDS
        while not service.engine.failed and time.monotonic() < deadline:
            time.sleep(0.01)
        assert client.get("/health").status_code == 503
        answer = client.post("/v1/completions", json={"model": MODEL, "prompt": "hello"})
        assert answer.status_code == 503
        assert answer.json()["error"]["code"] == "engine_stopped"


def test_stopping_tells_those_who_wait(make: Callable[..., Service]) -> None:
    engine = make(max_concurrent=1).engine

    async def work() -> None:
        mailbox = Mailbox()
        engine.submit([ticket(mailbox), ticket(mailbox)])
        await asyncio.to_thread(engine.stop)
        assert any(e.failure is not None for e in await mailbox.take())
        with pytest.raises(ApiError):
            engine.submit([ticket(mailbox)])

    with_engine(engine, work)


def test_a_budget_for_less_than_one_sequence_is_refused(tiny: tuple[Checkpoint, Decoder]) -> None:
    _, model = tiny
    with pytest.raises(UsageError, match="--max-model-len"):
        plan_server(model.config, model.dtype, 1 << 10, 4, CONTEXT)
    small = plan_server(model.config, model.dtype, 34 * 2048, 4, CONTEXT)
    assert small.pages * 16 >= CONTEXT


def test_work_ends_with_its_client() -> None:
    async def run() -> None:
        cancelled = asyncio.Event()

        async def work() -> None:
            try:
                await asyncio.sleep(SECONDS)
            finally:
                cancelled.set()

        messages = iter([{"type": "http.request"}, {"type": "http.disconnect"}])

        async def receive() -> dict[str, str]:
            await asyncio.sleep(0.01)
            return next(messages)

        with pytest.raises(ClientGone):
            await unless_gone(receive, work())
        assert cancelled.is_set()
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(run())
