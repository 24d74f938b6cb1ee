"""Many clients at once, some of which go away, send nonsense, or ask for too much; and what must be left afterwards.

Only the standard library's sockets: a client is a thread with one connection at a time.
"""

from __future__ import annotations

import collections
import gc
import http.client
import json
import os
import random
import socket
import struct
import threading
import time
import urllib.parse
from typing import Any

from tests.serve.conftest import MODEL, Live

SETTLE_SECONDS = 60
"""Of this process's own time, in which the server must come to rest: a busy machine makes no test fail."""
LONGEST_SECONDS = 900


class Load:
    """Clients against a live server for some seconds. `outcomes` counts what happened, `problems` lists what must not.

    Every kind of request has an answer that can be told in advance: completions with a seed are compared with the same
    request sent alone.
    """

    def __init__(self, live: Live, clients: int, seconds: float):
        self.live, self.clients, self.seconds = live, clients, seconds
        self.address = urllib.parse.urlsplit(live.url).netloc
        self.outcomes: collections.Counter[str] = collections.Counter()
        self.problems: list[str] = []
        self._lock = threading.Lock()
        self.expected = {seed: self._post(self._body(seed))[1] for seed in range(6)}

    def run(self) -> None:
        """Until the time is up and every client has its answer."""
        end = time.monotonic() + self.seconds
        threads = [threading.Thread(target=self._client, args=(i, end)) for i in range(self.clients)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(self.seconds + LONGEST_SECONDS)
            assert not thread.is_alive(), "a client still waits for its answer"

    def _client(self, number: int, end: float) -> None:
        dice = random.Random(number)
        kinds = [self._whole, self._stream, self._leave_stream, self._leave_whole, self._nonsense, self._score]
        while time.monotonic() < end:
            kind = dice.choice(kinds)
            try:
                outcome = kind(dice)
            except Exception as error:
                outcome = "problem"
                self._problem(f"{kind.__name__}: {type(error).__name__}: {error}")
            with self._lock:
                self.outcomes[outcome] += 1

    def _whole(self, dice: random.Random) -> str:
        seed = dice.randrange(6)
        status, answer = self._post(self._body(seed))
        if status == 429:
            return "429"
        if status != 200 or answer["choices"] != self.expected[seed]["choices"]:
            self._problem(f"seed {seed} gave {status}: {answer}")
        return "whole"

    def _stream(self, dice: random.Random) -> str:
        seed = dice.randrange(6)
        connection = self._send(self._body(seed) | {"stream": True})
        response = connection.getresponse()
        if response.status == 429:
            connection.close()
            return "429"
        lines = [line for line in response.read().decode().split("\n") if line]
        connection.close()
        texts = ["", ""]
        for line in lines[:-1]:
            choice = json.loads(line.removeprefix("data: "))["choices"][0]
            texts[choice["index"]] += choice["text"]
        if lines[-1] != "data: [DONE]" or texts != [c["text"] for c in self.expected[seed]["choices"]]:
            self._problem(f"stream of seed {seed} gave {lines[-3:]}")
        return "stream"

    def _leave_stream(self, dice: random.Random) -> str:
        connection = self._send(self._body(dice.randrange(100)) | {"stream": True, "max_tokens": 240})
        response = connection.getresponse()
        if response.status == 200:
            response.read(dice.randrange(1, 400))
        self._reset(connection)
        return "left a stream"

    def _leave_whole(self, dice: random.Random) -> str:
        connection = self._send(self._body(dice.randrange(100)) | {"max_tokens": 240, "n": dice.randrange(1, 5)})
        time.sleep(dice.random() * 0.05)
        self._reset(connection)
        return "left"

    def _nonsense(self, dice: random.Random) -> str:
        wrong: Any = dice.choice(
            [
                {"max_tokens": "x"},
                {"prompt": 3},
                {"model": "other"},
                {"prompt": "a b " * 100_000},
                {"zzz": 1},
                "{",
                "[]",
            ]
        )
        status, answer = self._post(wrong if isinstance(wrong, str) else self._body(0) | wrong)
        if status not in (400, 404) or set(answer["error"]) != {"message", "type", "param", "code"}:
            self._problem(f"{wrong} gave {status}: {answer}")
        return "nonsense"

    def _score(self, dice: random.Random) -> str:
        body = {"model": MODEL, "prompt": "hello world", "max_tokens": 1, "echo": True, "logprobs": 2, "temperature": 0}
        status, answer = self._post(body)
        if status == 429:
            return "429"
        if status != 200 or len(answer["choices"][0]["logprobs"]["tokens"]) < 3:
            self._problem(f"scoring gave {status}: {answer}")
        return "scored"

    def _body(self, seed: int) -> dict[str, Any]:
        return {"model": MODEL, "prompt": f"hello {seed}", "seed": seed, "n": 2, "max_tokens": 10 + 5 * seed}

    def _send(self, body: dict[str, Any] | str) -> http.client.HTTPConnection:
        connection = http.client.HTTPConnection(self.address, timeout=LONGEST_SECONDS)
        content = body if isinstance(body, str) else json.dumps(body)
        connection.request("POST", "/v1/completions", content, {"Content-Type": "application/json"})
        return connection

    def _post(self, body: dict[str, Any] | str) -> tuple[int, dict[str, Any]]:
        connection = self._send(body)
        response = connection.getresponse()
        answer = json.loads(response.read())
        connection.close()
        return response.status, answer

    def _reset(self, connection: http.client.HTTPConnection) -> None:
        """Close without a word, as a process that was killed, or in order."""
        if connection.sock is not None and random.random() < 0.5:
            connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.close()

    def _problem(self, text: str) -> None:
        with self._lock:
            self.problems.append(text[:500])


def open_files() -> int:
    """File descriptors of this process."""
    return len(os.listdir("/proc/self/fd"))


def settles(condition: Any) -> bool:
    """Whether the condition comes true in time."""
    end, last = time.process_time() + SETTLE_SECONDS, time.monotonic() + LONGEST_SECONDS
    while not condition():
        if time.process_time() > end or time.monotonic() > last:
            return False
        gc.collect()
        time.sleep(0.05)
    return True
