"""Connections: work that stops when its client goes away, streams, limits of size and time, the host and the key."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import ipaddress
import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, MutableMapping
from typing import Any, TypeVar

from starlette.exceptions import HTTPException
from starlette.responses import Response
from uvicorn.protocols.http.h11_impl import H11Protocol

from rethink.serve.api_errors import ApiError

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
T = TypeVar("T")

MOST_BODY_BYTES = 16 << 20
MOST_VALUES = 1 << 20
"""Commas and brackets in a body: parsed, each can take a hundred times its byte."""
MOST_HELD_BYTES = 128 << 20
"""Of the bodies of all requests together."""
BODY_SECONDS = HEADER_SECONDS = 30.0
"""Time for the next piece of a body, and for the headers."""
OPEN_PATHS = ("/health", "/openapi.json")
"""Served without a key."""


class ClientGone(Exception):
    """Nobody waits for the answer any more."""


async def unless_gone(receive: Receive, work: Awaitable[T]) -> T:
    """The work's result; it is cancelled when the client goes away.

    Raises:
        ClientGone: see above.
    """
    task, gone = asyncio.ensure_future(work), asyncio.ensure_future(_gone(receive))
    try:
        await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientGone
        return task.result()
    finally:
        for one in (task, gone):
            one.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class EventStream(Response):
    """Server-sent events.

    Args:
        chunks: the events.
        close: called once, whether they end, fail, or the client goes away.
    """

    media_type = "text/event-stream"

    def __init__(self, chunks: AsyncGenerator[bytes, None], close: Callable[[], None]):
        super().__init__(headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._chunks, self._close = chunks, close

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send them all."""
        try:
            with contextlib.suppress(ClientGone, OSError):
                await unless_gone(receive, self._send_all(send))
        finally:
            self._close()

    async def _send_all(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        async with contextlib.aclosing(self._chunks) as chunks:
            async for chunk in chunks:
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


class Guard:
    """Middleware: refuses requests without the key or for another host, and bodies that are too large or too slow,
    before and while they are read.

    Args:
        app: the rest.
        api_key: what `Authorization: Bearer …` must hold; None: anything.
        hosts: names and addresses that `Host` may hold beside this machine's own; None: anything. A page whose name
            leads to this machine ("DNS rebinding") is read by the browser as if it were the server's own.
    """

    def __init__(self, app: App, api_key: str | None = None, hosts: Collection[str] | None = None):
        self._app, self._key = app, None if api_key is None else api_key.encode()
        self._hosts = None if hosts is None else {host.lower() for host in hosts}
        self._held = 0
        """Bytes of bodies of all requests under way."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse, or pass on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers: dict[bytes, bytes] = dict(scope["headers"])
        refusal = self._refusal(scope["path"], headers)
        if refusal is not None:
            await refusal.response()(scope, receive, send)
            return
        seen = values = 0
        complete = False

        async def limited() -> MutableMapping[str, Any]:
            nonlocal seen, values, complete
            try:
                message = await asyncio.wait_for(receive(), None if complete else BODY_SECONDS)
            except TimeoutError as error:
                raise HTTPException(408, f"nothing more of the body came within {BODY_SECONDS:g} seconds") from error
            body = message.get("body", b"")
            complete = not message.get("more_body", False)
            seen += len(body)
            self._held += len(body)
            values += sum(map(body.count, (b",", b"[", b"{")))
            if seen > MOST_BODY_BYTES:
                raise HTTPException(413, _TOO_LARGE)
            if values > MOST_VALUES:
                raise HTTPException(413, _TOO_MANY)
            if self._held > MOST_HELD_BYTES:
                raise HTTPException(429, _TOO_MUCH, {"Retry-After": "1"})
            return message

        try:
            await self._app(scope, limited, send)
        finally:
            self._held -= seen

    def _refusal(self, path: str, headers: dict[bytes, bytes]) -> ApiError | None:
        host = headers.get(b"host", b"").decode("latin-1")
        if self._hosts is not None and host and not self._is_ours(host):
            return ApiError(
                403,
                f"this server does not answer to the name {host[:100]!r}; use the address that it printed, or start it "
                "with --allowed-host NAME",
                code="host_not_allowed",
            )
        if self._key is not None and path not in OPEN_PATHS:
            kind, _, given = headers.get(b"authorization", b"").partition(b" ")
            if kind.lower() != b"bearer" or not hmac.compare_digest(given.strip(), self._key):
                return ApiError(
                    401,
                    "a key is needed: send the header `Authorization: Bearer KEY` with the server's API key",
                    code="invalid_api_key",
                    headers={"WWW-Authenticate": "Bearer"},
                )
        length = headers.get(b"content-length", b"0")
        if length.isdigit() and int(length[:20]) > MOST_BODY_BYTES:
            return ApiError(413, _TOO_LARGE, code="request_too_large")
        return None

    def _is_ours(self, host: str) -> bool:
        assert self._hosts is not None
        name = re.sub(r":\d*$", "", host).strip("[]").rstrip(".").lower()
        return is_loopback(name) or name in self._hosts


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches the address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class TimedProtocol(H11Protocol):
    """Uvicorn's, which closes a connection whose request does not begin, or whose headers do not end, in time."""

    _waiting: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """See `asyncio.Protocol`."""
        super().connection_made(transport)
        self._wait()

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            self._begun()
        elif self._waiting is None:
            self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.Protocol`."""
        self._begun()
        super().connection_lost(exc)

    def _wait(self) -> None:
        self._waiting = self.loop.call_later(HEADER_SECONDS, self.transport.close)

    def _begun(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None


_TOO_LARGE = f"the body is larger than {MOST_BODY_BYTES >> 20} MiB, which no prompt needs; send less"
_TOO_MANY = f"the body holds more than {MOST_VALUES:,} values; send fewer prompts or tokens at once"
_TOO_MUCH = "the bodies of all requests under way are too large together; try again later"
