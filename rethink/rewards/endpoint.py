"""Asking an OpenAI-compatible endpoint (`POST {url}/chat/completions`), with what a long run needs around it.

Retries with back-off that honours `Retry-After`, a deadline for every request, at most so many at once, limits on
requests and tokens, and a cache on disk by content, from which a run can be replayed without the endpoint. What the
endpoint sends is not trusted: it is bounded in size and time, and must be JSON of the expected form. The key is read
from the environment, sent in one header to that endpoint alone (redirects are not followed), and kept out of every
message.
"""

from __future__ import annotations

import email.utils
import hashlib
import json
import os
import random
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2 as httpx

from rethink.errors import RecipeError, RunFolderError
from rethink.rewards.outcome import EXCEPTION, INVALID, TIMEOUT, PartFailed
from rethink.store.integrity import read_sealed, write_sealed

Messages = Sequence[Mapping[str, str]]

LARGEST_REPLY = 1 << 20
"""Bytes of a response; more is an error."""
FIRST_WAIT, LONGEST_WAIT = 0.5, 60.0
"""Seconds before the second try; doubled each time, up to the longest."""
PASSING = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
"""HTTP statuses that another try may mend."""
PROBE_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where and how to ask."""

    url: str
    """Base, such as `http://127.0.0.1:8000/v1`."""
    model: str
    key_env: str | None = None
    """Environment variable that holds the key; None: no key is sent."""
    temperature: float = 0.0
    max_tokens: int = 512
    """Tokens of a reply."""
    seconds: float = 60.0
    """Time for one request; a reply that comes drop by drop is cut off after at most twice as long."""
    attempts: int = 5
    concurrency: int = 8
    max_requests: int | None = None
    """Requests in all, retries included; then every further question fails."""
    max_total_tokens: int | None = None
    """Prompt and reply tokens in all, as the endpoint counts them."""
    cache: Path | None = None
    """Folder of the replies; None keeps none."""
    offline: bool = False
    """Answer from the cache alone."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back."""

    text: str
    thought: str | None = None
    """The thought, where the server sends it in a field of its own."""
    cut: bool = False
    """Whether the limit of tokens ended it."""


@dataclass(slots=True)
class Spent:
    """What was used so far."""

    requests: int = 0
    tokens: int = 0
    cached: int = 0


class _Passing(Exception):
    """A failure that another try may mend, and how long the endpoint asked to wait."""

    def __init__(self, cause: str, said: str, wait: float | None = None):
        super().__init__(said)
        self.cause, self.said, self.wait = cause, said, wait


@dataclass(slots=True)
class _InFlight:
    """One lock for each question that is being asked, so that equal ones are asked once."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    users: int = 0


class EndpointClient:
    """Asks questions; usable from any thread.

    Raises:
        RecipeError: a URL that is none, a key that is not set, or offline without a cache.
    """

    def __init__(self, endpoint: Endpoint, field: str = "judge"):
        self._endpoint = endpoint
        self.spent = Spent()
        parts = urlsplit(endpoint.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise RecipeError(
                f"{field}.url is {endpoint.url!r}; give the endpoint's base, such as http://127.0.0.1:8000/v1"
            )
        if parts.username or parts.password:
            raise RecipeError(f"{field}.url holds a user or password; put a key into the environment: {field}.key_env")
        if endpoint.offline and endpoint.cache is None:
            raise RecipeError(f"{field}.offline needs {field}.cache, the folder of the recorded replies")
        self._key = self._read_key(field)
        headers = {"Accept-Encoding": "identity"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        local = parts.hostname in ("localhost", "127.0.0.1", "::1")
        self._client = httpx.Client(headers=headers, follow_redirects=False, trust_env=not local)
        self._slots = threading.BoundedSemaphore(endpoint.concurrency)
        self._state = threading.Lock()
        self._asking: dict[str, _InFlight] = {}

    def probe(self, field: str) -> None:
        """See whether anything answers at the URL.

        Raises:
            RecipeError: nothing does, or it refuses the key.
        """
        if self._endpoint.offline:
            return
        url = self._endpoint.url.rstrip("/") + "/models"
        try:
            with self._client.stream("GET", url, timeout=PROBE_SECONDS) as response:
                status = response.status_code
        except httpx.TimeoutException:
            return  # busy, perhaps; each question has its own limit
        except httpx.HTTPError as error:
            raise RecipeError(
                f"nothing answers at {self._endpoint.url} ({type(error).__name__}: {self._clean(str(error))}); start "
                f"the endpoint, correct {field}.url, or replay recorded replies with {field}.offline=true"
            ) from None
        if status in (401, 403):
            raise RecipeError(
                f"{self._endpoint.url} refuses the request ({status}); put a valid key into an environment variable "
                f"and name it in {field}.key_env"
            )

    def ask(self, messages: Messages) -> str:
        """The endpoint's reply to a conversation, whole.

        Raises:
            PartFailed: no usable reply: not in the cache offline, a limit is spent, every attempt failed, or the reply
                was cut.
        """
        return self._ask(messages, {}).text

    def complete(self, messages: Messages, options: Mapping[str, Any]) -> Reply:
        """A completion as it comes, thought and cut ones too.

        Args:
            messages: the conversation.
            options: what the request holds besides, at least a `seed`: each has its own reply in the cache.

        Raises:
            PartFailed: as for `ask`, but for replies that were cut.
        """
        return self._ask(messages, options)

    def _ask(self, messages: Messages, options: Mapping[str, Any]) -> Reply:
        key = self._question_key(messages, options)
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
                if self._endpoint.offline:
                    raise PartFailed(EXCEPTION, f"offline, and the reply {key[:12]} is not in {self._endpoint.cache}")
                reply = self._try_all(messages, options)
                self._keep(key, messages, options, reply)
                return reply
        finally:
            with self._state:
                flight.users -= 1
                if not flight.users:
                    del self._asking[key]

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    # --- one question ------------------------------------------------------------------------------------------------

    def _try_all(self, messages: Messages, options: Mapping[str, Any]) -> Reply:
        wait = FIRST_WAIT
        attempts = self._endpoint.attempts
        for attempt in range(1, attempts + 1):
            try:
                with self._slots:
                    return self._try(messages, options)
            except _Passing as failure:
                if attempt == attempts:
                    raise PartFailed(failure.cause, f"{failure.said}, {attempts} times") from None
                asked = failure.wait if failure.wait is not None else wait * (0.5 + random.random())
                time.sleep(min(asked, LONGEST_WAIT))
                wait = min(2 * wait, LONGEST_WAIT)
        raise AssertionError("attempts is at least 1")

    def _try(self, messages: Messages, options: Mapping[str, Any]) -> Reply:
        self._count_request()
        endpoint = self._endpoint
        body = {
            "model": endpoint.model,
            "messages": list(messages),
            "temperature": endpoint.temperature,
            "max_tokens": endpoint.max_tokens,
            **options,
        }
        ends = time.monotonic() + endpoint.seconds
        try:
            url = endpoint.url.rstrip("/") + "/chat/completions"
            with self._client.stream("POST", url, json=body, timeout=endpoint.seconds) as response:
                data = _read(response, ends, endpoint.seconds)
        except httpx.TimeoutException:
            raise _Passing(TIMEOUT, f"no reply within {endpoint.seconds:g} s") from None
        except httpx.HTTPError as error:
            raise _Passing(EXCEPTION, f"{type(error).__name__}: {self._clean(str(error))[:120]}") from None
        status = response.status_code
        if status in PASSING:
            raise _Passing(EXCEPTION, f"HTTP {status}", _retry_after(response.headers.get("retry-after")))
        if status != 200:
            said = self._clean(data.decode("utf-8", "replace"))[:120]
            raise PartFailed(EXCEPTION, f"the endpoint answers HTTP {status}: {said}")
        return self._content(data, as_it_comes=bool(options))

    def _content(self, data: bytes, as_it_comes: bool) -> Reply:
        try:
            parsed = json.loads(data)
            choice = parsed["choices"][0]
            message = choice["message"]
            content, thought, cut = message["content"], _thought(message), choice.get("finish_reason") == "length"
        except (ValueError, RecursionError, LookupError, TypeError, AttributeError):
            raise _Passing(INVALID, "the response is not a chat completion in JSON") from None
        if as_it_comes and content is None and thought is not None:
            content = ""  # it ended before the thought did
        if not isinstance(content, str):
            raise _Passing(INVALID, "the response holds no text")
        usage = parsed.get("usage")
        used = usage.get("total_tokens") if isinstance(usage, dict) else None
        with self._state:
            self.spent.tokens += used if isinstance(used, int) and used > 0 else 0
        if cut and not as_it_comes:
            raise PartFailed(INVALID, f"the reply was cut at max_tokens={self._endpoint.max_tokens}")
        return Reply(content, thought, cut)

    def _count_request(self) -> None:
        limits = self._endpoint
        with self._state:
            if limits.max_requests is not None and self.spent.requests >= limits.max_requests:
                raise PartFailed(EXCEPTION, f"the limit max_requests={limits.max_requests} is spent")
            if limits.max_total_tokens is not None and self.spent.tokens >= limits.max_total_tokens:
                raise PartFailed(EXCEPTION, f"the limit max_total_tokens={limits.max_total_tokens} is spent")
            self.spent.requests += 1

    # --- cache and key -----------------------------------------------------------------------------------------------

    def _question_key(self, messages: Messages, options: Mapping[str, Any]) -> str:
        """Of what decides the reply. The URL does not: a replay may run elsewhere."""
        e = self._endpoint
        content = [e.model, list(messages), e.temperature, e.max_tokens]
        content += [dict(options)] if options else []
        text = json.dumps(content, sort_keys=True)  # ASCII: a lone surrogate in a completion is escaped
        return hashlib.sha256(text.encode()).hexdigest()

    def _path(self, key: str) -> Path | None:
        return None if self._endpoint.cache is None else self._endpoint.cache / key[:2] / f"{key}.json"

    def _from_cache(self, key: str) -> Reply | None:
        path = self._path(key)
        if path is None:
            return None
        try:
            kept = read_sealed(path)
            return None if kept is None else Reply(kept["reply"], kept.get("thought"), kept.get("cut", False))
        except (RunFolderError, LookupError):
            return None if not self._endpoint.offline else self._broken(path)

    def _broken(self, path: Path) -> Reply:
        raise PartFailed(EXCEPTION, f"the recorded reply {path} cannot be read")

    def _keep(self, key: str, messages: Messages, options: Mapping[str, Any], reply: Reply) -> None:
        path = self._path(key)
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            kept: dict[str, Any] = {"model": self._endpoint.model, "messages": list(messages), "reply": reply.text}
            if options:
                kept |= {"options": dict(options), "thought": reply.thought, "cut": reply.cut}
            write_sealed(path, kept)

    def _read_key(self, field: str) -> str | None:
        name = self._endpoint.key_env
        if name is None or self._endpoint.offline:
            return None
        key = os.environ.get(name, "").strip()
        if not key:
            raise RecipeError(
                f"{field}.key_env names the environment variable `{name}`, which is not set; export it, or remove "
                "key_env where the endpoint wants no key"
            )
        if not key.isascii() or not key.isprintable() or " " in key:
            raise RecipeError(f"the environment variable `{name}` holds characters that no key has; set it anew")
        return key

    def _clean(self, text: str) -> str:
        """The text without the key, on one line."""
        return " ".join((text.replace(self._key, "…") if self._key else text).split())


def _read(response: httpx.Response, ends: float, seconds: float) -> bytes:
    """The body, bounded in size and in time as a whole (a server may send a byte now and then for ever)."""
    data = bytearray()
    for chunk in response.iter_raw():  # as it comes: nothing is decompressed, nothing waits for a full buffer
        data += chunk
        if len(data) > LARGEST_REPLY:
            raise _Passing(INVALID, f"the response is larger than {LARGEST_REPLY} bytes")
        if time.monotonic() > ends:
            raise _Passing(TIMEOUT, f"the reply was not complete within {seconds:g} s")
    return bytes(data)


def _thought(message: Mapping[str, Any]) -> str | None:
    """The thought that servers with a reasoning parser send beside the content."""
    found = message.get("reasoning_content") or message.get("reasoning")
    return found if isinstance(found, str) else None


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
