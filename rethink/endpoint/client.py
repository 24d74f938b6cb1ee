"""The client of an OpenAI-compatible endpoint (`/chat/completions`, `/completions`).

It retries with back-off and honours `Retry-After`. It has a deadline for each request, and limits on concurrency,
requests and tokens. A cache on disk, keyed by content, replays a run without the endpoint. Replies are not trusted:
they are bounded in size and time, and must be JSON of the expected form. The key is read from the environment, sent in
one header to that endpoint only (redirects are not followed), and left out of every message.
"""

from __future__ import annotations

import email.utils
import hashlib
import json
import os
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar
from urllib.parse import urlsplit

import httpx2 as httpx

from rethink.endpoint.reply import NoReply, Reply
from rethink.errors import RecipeError, RethinkError, RunFolderError, UsageError
from rethink.model.text.thoughts import END_THINK, THINK
from rethink.recipe.schema import EndpointSection
from rethink.store.integrity import read_sealed, write_sealed

Messages = Sequence[Mapping[str, str]]
Value = TypeVar("Value")

LARGEST_REPLY = 1 << 20
"""Bytes of a response, or of one event of a stream; more is an error."""
FIRST_WAIT, LONGEST_WAIT = 0.5, 60.0
"""Seconds before the second try; doubled each time, up to the longest."""
PASSING = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
"""HTTP statuses that are retried."""
PROBE_SECONDS = 5.0
KEY_VARIABLES = ("RETHINK_API_KEY", "OPENAI_API_KEY")
"""Where the key of a command's `--endpoint` is looked for."""
SHOWN = 300
"""Characters of the endpoint's own words in a message."""


@dataclass(slots=True)
class Spent:
    """What a client has used so far."""

    requests: int = 0
    tokens: int = 0
    cached: int = 0


class _Passing(Exception):
    """A failure that is retried, with the wait that the endpoint asked for."""

    def __init__(self, cause: Literal["timeout", "invalid", "exception"], said: str, wait: float | None = None):
        super().__init__(said)
        self.cause, self.said, self.wait = cause, said, wait


@dataclass(slots=True)
class _InFlight:
    """One lock for each question that is being asked, so that equal ones are asked once."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    users: int = 0


class EndpointClient:
    """Sends requests; usable from any thread.

    `options` are the fields of a request beside model and question. They always include `temperature` and `max_tokens`.

    Args:
        endpoint: address, model and limits.
        field: of the recipe, for messages; `--endpoint` on the command line.
        cache: folder of stored replies; None stores none.
        offline: replay stored replies only.

    Raises:
        RecipeError: the URL is invalid, the key is not set, or `offline` has no cache.
    """

    def __init__(
        self, endpoint: EndpointSection, field: str, *, cache: Path | None = None, offline: bool = False
    ) -> None:
        self.endpoint = endpoint
        self.spent = Spent()
        self._field, self._cache, self._offline = field, cache, offline
        self._url = str(endpoint.url).rstrip("/")
        parts = urlsplit(self._url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise RecipeError(
                f"{self._named('url')} is {endpoint.url!r}, which is no URL; give the endpoint's base, such as "
                "http://127.0.0.1:8000/v1"
            )
        if parts.username or parts.password:
            raise RecipeError(
                f"{self._named('url')} holds a user or password; put a key into the environment: "
                f"{self._named('key_env')}"
            )
        if offline and cache is None:
            raise RecipeError(f"{field}.offline needs {field}.cache, the folder of the recorded replies")
        self._key = self._read_key()
        headers = {"Accept-Encoding": "identity"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        local = parts.hostname in ("localhost", "127.0.0.1", "::1")
        self._client = httpx.Client(headers=headers, follow_redirects=False, trust_env=not local)
        self._slots = threading.BoundedSemaphore(endpoint.concurrency)
        self._state = threading.Lock()
        self._asking: dict[str, _InFlight] = {}

    def probe(self) -> None:
        """Check that the endpoint can be reached.

        Raises:
            RecipeError: it cannot, or it refuses the key.
        """
        if self._offline:
            return
        try:
            with self._client.stream("GET", f"{self._url}/models", timeout=PROBE_SECONDS) as response:
                status = response.status_code
        except httpx.TimeoutException:
            return  # busy, perhaps; each question has its own limit
        except httpx.HTTPError as error:
            raise RecipeError(
                f"nothing answers at {self._url} ({type(error).__name__}: {self._clean(str(error))}); start "
                f"the endpoint, correct {self._field}.url, or replay recorded replies with {self._field}.offline=true"
            ) from None
        if status in (401, 403):
            raise RecipeError(
                f"{self._url} refuses the request ({status}); put a valid key into an environment variable "
                f"and name it in {self._field}.key_env"
            )

    def ask(self, messages: Messages, options: Mapping[str, Any]) -> str:
        """The text of the reply to a conversation.

        Raises:
            NoReply: it is not stored (offline), a limit is reached, every attempt failed, or the reply was cut.
        """
        return self._ask(messages, options, as_it_comes=False).text

    def complete(self, asked: Messages | str, options: Mapping[str, Any]) -> Reply:
        """A completion with its thought; it may be cut.

        Args:
            asked: a conversation, or a text to continue (`/completions`).
            options: with a `seed`, so that each sample has its own stored reply.

        Raises:
            NoReply: as for `ask`, but for replies that were cut.
        """
        return self._ask(asked, options, as_it_comes=True)

    def stream(self, messages: Messages, options: Mapping[str, Any], on_text: Callable[[str], None]) -> bool:
        """Stream a completion: `on_text` receives each piece, with the thought between `<think>` and `</think>`.

        Requests are retried until the first piece. `seconds` bounds the time between pieces. Nothing is stored.

        Returns:
            Whether the token limit ended it.

        Raises:
            NoReply: every attempt failed, or the stream broke. An error of `on_text` ends the stream.
        """
        body = {"model": self.endpoint.model, "messages": list(messages), **options, "stream": True}

        def once() -> bool:
            told = False

            def tell(text: str) -> None:
                nonlocal told
                told = True
                on_text(text)

            try:
                with self._post("chat/completions", body) as response:
                    return _told(_events(response), tell)
            except _Passing as failure:
                if told:
                    raise NoReply(failure.cause, self._clean(failure.said)) from None
                raise

        return self._retried(once)

    def explained(self, failure: NoReply, instead: str) -> RethinkError | None:
        """The user's error for a refused request; None for any other failure.

        Args:
            failure: of a request.
            instead: what to do if the request itself is refused.
        """
        said = failure.detail.removeprefix("the endpoint answers ")
        if failure.status in (401, 403):
            return UsageError(f"the endpoint {self._url} refuses the key ({said}); set it: {self._named('key_env')}")
        if failure.status == 404:
            return UsageError(
                f"the endpoint {self._url} does not know the model {self.endpoint.model!r} or the address ({said}); "
                f"its models are listed at {self._url}/models"
            )
        if failure.status in (400, 422):
            return UsageError(f"the endpoint {self._url} refuses the request ({said}); {instead}")
        return None

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    # --- one question ------------------------------------------------------------------------------------------------

    def _ask(self, asked: Messages | str, options: Mapping[str, Any], as_it_comes: bool) -> Reply:
        key = self._question_key(asked, options)
        with self._state:
            flight = self._asking.setdefault(key, _InFlight())
            flight.users += 1
        try:
            with flight.lock:
                known = self._from_cache(key)
                if known is not None:
                    with self._state:
                        self.spent.cached += 1
                    return known
                if self._offline:
                    raise NoReply("exception", f"offline, and the reply {key[:12]} is not in {self._cache}")
                reply = self._retried(lambda: self._try(asked, options, as_it_comes))
                self._keep(key, asked, options, reply)
                return reply
        finally:
            with self._state:
                flight.users -= 1
                if not flight.users:
                    del self._asking[key]

    def _retried(self, once: Callable[[], Value]) -> Value:
        wait = FIRST_WAIT
        attempts = self.endpoint.attempts
        for attempt in range(1, attempts + 1):
            try:
                with self._slots:
                    return once()
            except _Passing as failure:
                if attempt == attempts:
                    said = f"{self._clean(failure.said)}, {attempts} times"
                    raise NoReply(failure.cause, said) from None
                asked = failure.wait if failure.wait is not None else wait * (0.5 + random.random())
                time.sleep(min(asked, LONGEST_WAIT))
                wait = min(2 * wait, LONGEST_WAIT)
        raise AssertionError("attempts is at least 1")

    def _try(self, asked: Messages | str, options: Mapping[str, Any], as_it_comes: bool) -> Reply:
        question = {"prompt": asked} if isinstance(asked, str) else {"messages": list(asked)}
        path = "completions" if isinstance(asked, str) else "chat/completions"
        ends = time.monotonic() + self.endpoint.seconds
        with self._post(path, {"model": self.endpoint.model, **question, **options}) as response:
            data = _read(response, ends, self.endpoint.seconds)
        reply = self._content(data, as_it_comes)
        if reply.cut and not as_it_comes:
            raise NoReply("invalid", f"the reply was cut at max_tokens={options['max_tokens']}")
        return reply

    @contextmanager
    def _post(self, path: str, body: Mapping[str, Any]) -> Iterator[httpx.Response]:
        """The response to a request that was accepted."""
        self._count_request()
        seconds = self.endpoint.seconds
        ends = time.monotonic() + seconds
        try:
            with self._client.stream("POST", f"{self._url}/{path}", json=body, timeout=seconds) as response:
                status = response.status_code
                if status in PASSING:
                    wait = _retry_after(response.headers.get("retry-after"))
                    raise _Passing("exception", f"HTTP {status}", wait)
                if status != 200:
                    said = self._clean(_read(response, ends, seconds).decode("utf-8", "replace"))[:SHOWN]
                    raise NoReply("exception", f"the endpoint answers HTTP {status}: {said}", status)
                yield response
        except httpx.TimeoutException:
            raise _Passing("timeout", f"no reply within {seconds:g} s") from None
        except httpx.HTTPError as error:
            raise _Passing("exception", f"{type(error).__name__}: {self._clean(str(error))[:SHOWN]}") from None

    def _content(self, data: bytes, as_it_comes: bool) -> Reply:
        try:
            parsed = json.loads(data)
            choice = parsed["choices"][0]
            message = choice["message"] if "message" in choice else {"content": choice["text"]}
            content, thought, cut = message["content"], _thought(message), choice.get("finish_reason") == "length"
        except (ValueError, RecursionError, LookupError, TypeError, AttributeError):
            raise _Passing("invalid", "the response is not a chat completion in JSON") from None
        if as_it_comes and content is None:
            content = ""  # it ended at once, or before the thought did
        if not isinstance(content, str):
            raise _Passing("invalid", "the response holds no text")
        with self._state:
            self.spent.tokens += _count(parsed, "total_tokens") or 0
        return Reply(content, thought, cut, _count(parsed, "completion_tokens"))

    def _count_request(self) -> None:
        limits = self.endpoint
        with self._state:
            if limits.max_requests is not None and self.spent.requests >= limits.max_requests:
                raise NoReply("exception", f"the limit max_requests={limits.max_requests} is spent")
            if limits.max_total_tokens is not None and self.spent.tokens >= limits.max_total_tokens:
                raise NoReply("exception", f"the limit max_total_tokens={limits.max_total_tokens} is spent")
            self.spent.requests += 1

    # --- cache and key -----------------------------------------------------------------------------------------------

    def _question_key(self, asked: Messages | str, options: Mapping[str, Any]) -> str:
        """Of what decides the reply. The URL does not: a replay may run elsewhere."""
        question = asked if isinstance(asked, str) else list(asked)
        content = [self.endpoint.model, question, options["temperature"], options["max_tokens"]]
        further = _further(options)
        content += [further] if further else []
        text = json.dumps(content, sort_keys=True)  # ASCII: a lone surrogate in a completion is escaped
        return hashlib.sha256(text.encode()).hexdigest()

    def _path(self, key: str) -> Path | None:
        return None if self._cache is None else self._cache / key[:2] / f"{key}.json"

    def _from_cache(self, key: str) -> Reply | None:
        path = self._path(key)
        if path is None:
            return None
        try:
            kept = read_sealed(path)
            return None if kept is None else Reply(kept["reply"], kept.get("thought"), kept.get("cut", False))
        except (RunFolderError, LookupError):
            if self._offline:
                raise NoReply("exception", f"the recorded reply {path} cannot be read") from None
            return None

    def _keep(self, key: str, asked: Messages | str, options: Mapping[str, Any], reply: Reply) -> None:
        path = self._path(key)
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            question = {"prompt": asked} if isinstance(asked, str) else {"messages": list(asked)}
            kept: dict[str, Any] = {"model": self.endpoint.model, **question, "reply": reply.text}
            if further := _further(options):
                kept |= {"options": further, "thought": reply.thought, "cut": reply.cut}
            write_sealed(path, kept)

    def _read_key(self) -> str | None:
        name = self.endpoint.key_env
        if name is None or self._offline:
            return None
        key = os.environ.get(name, "").strip()
        if not key:
            raise RecipeError(
                f"{self._field}.key_env names the environment variable `{name}`, which is not set; export it, or "
                "remove key_env where the endpoint wants no key"
            )
        if not key.isascii() or not key.isprintable() or " " in key:
            raise RecipeError(f"the environment variable `{name}` holds characters that no key has; set it anew")
        return key

    def _named(self, key: str) -> str:
        """Where the user sets the URL or the key."""
        if self._field != "--endpoint":
            return f"{self._field}.{key}"
        return self._field if key == "url" else f"the environment variable {KEY_VARIABLES[0]}"

    def _clean(self, text: str) -> str:
        """The text without the key, on one line."""
        return " ".join((text.replace(self._key, "…") if self._key else text).split())


def command_line_client(model: str, url: str, *, seconds: float, attempts: int, concurrency: int) -> EndpointClient:
    """The client for `--endpoint URL`. The first of `KEY_VARIABLES` that is set holds its key.

    Args:
        model: its name there.
        url: the endpoint's base, which usually ends in `/v1`.
        seconds: see `EndpointSection`, as for the others.
        attempts: tries of a request.
        concurrency: requests at once.

    Raises:
        RecipeError: the URL is invalid, or the key holds characters that no key has.
    """
    key = next((name for name in KEY_VARIABLES if os.environ.get(name, "").strip()), None)
    section = EndpointSection(
        model=model, url=url, key_env=key, seconds=seconds, attempts=attempts, concurrency=concurrency
    )
    return EndpointClient(section, "--endpoint")


def _further(options: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in options.items() if key not in ("temperature", "max_tokens")}


def _read(response: httpx.Response, ends: float, seconds: float) -> bytes:
    """The body, bounded in size and in time as a whole (a server may send a byte now and then for ever)."""
    data = bytearray()
    for chunk in response.iter_raw():  # as it comes: nothing is decompressed, nothing waits for a full buffer
        data += chunk
        if len(data) > LARGEST_REPLY:
            raise _Passing("invalid", f"the response is larger than {LARGEST_REPLY} bytes")
        if time.monotonic() > ends:
            raise _Passing("timeout", f"the reply was not complete within {seconds:g} s")
    return bytes(data)


def _events(response: httpx.Response) -> Iterator[Mapping[str, Any]]:
    """The chunks of a stream of server-sent events (https://html.spec.whatwg.org/multipage/server-sent-events.html)."""
    held = b""
    for chunk in response.iter_raw():
        *lines, held = (held + chunk).split(b"\n")
        if len(held) > LARGEST_REPLY:
            raise _Passing("invalid", f"an event of the stream is larger than {LARGEST_REPLY} bytes")
        for line in lines:
            data = line.removeprefix(b"data:").strip()
            if data == b"[DONE]":
                return
            if line.startswith(b"data:"):
                yield _event(data)


def _event(data: bytes) -> Mapping[str, Any]:
    try:
        event = json.loads(data)
    except (ValueError, RecursionError):
        event = None
    if not isinstance(event, dict):
        raise _Passing("invalid", "an event of the stream is no JSON object")
    if "error" in event:
        raise _Passing("exception", f"the stream ends with an error: {' '.join(str(event['error']).split())[:SHOWN]}")
    return event


def _told(events: Iterator[Mapping[str, Any]], tell: Callable[[str], None]) -> bool:
    """Pass on the pieces of a stream, with a thought from a separate field between tags; returns whether it was cut."""
    thinking, reason = False, None
    for event in events:
        try:
            choice = (event.get("choices") or [{}])[0]
            delta = choice.get("delta") or {}
            thought, content = _thought(delta), delta.get("content")
            reason = choice.get("finish_reason") or reason
        except (LookupError, TypeError, AttributeError):
            raise _Passing("invalid", "an event of the stream is no part of a chat completion") from None
        if thought:
            tell(thought if thinking else f"{THINK}\n{thought}")
            thinking = True
        if isinstance(content, str) and content:
            tell(f"\n{END_THINK}\n\n{content}" if thinking else content)
            thinking = False
    if reason is None:
        raise _Passing("exception", "the stream ended before the answer did")
    return bool(reason == "length")


def _thought(message: Mapping[str, Any]) -> str | None:
    """The thought, which servers with a reasoning parser send in a separate field."""
    found = message.get("reasoning_content") or message.get("reasoning")
    return found if isinstance(found, str) else None


def _count(parsed: Mapping[str, Any], key: str) -> int | None:
    """A number of tokens that the response states."""
    usage = parsed.get("usage")
    used = usage.get(key) if isinstance(usage, dict) else None
    return used if isinstance(used, int) and used >= 0 else None


def _retry_after(value: str | None) -> float | None:
    """Seconds that a `Retry-After` header asks for (a number or a date); None where it cannot be read."""
    if value is None:
        return None
    try:
        return max(0.0, min(float(value), LONGEST_WAIT)) if value.strip()[:1].isdigit() else _until(value)
    except ValueError:
        return None


def _until(date: str) -> float | None:
    try:
        return max(0.0, email.utils.parsedate_to_datetime(date).timestamp() - time.time())
    except (TypeError, ValueError):
        return None
