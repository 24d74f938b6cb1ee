"""From the engine's events to answers: thoughts over any cut of the tokens, in streams and not."""

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from rethink.serve.responses import Job
from rethink.serve.tickets import Event, Mailbox, Ticket
from rethink.types import Completion, GenerationRequest, SamplingParams

TURN = "<think>\nfirst 中 then\n</think>\n\nso 4 <thin"


def as_bytes(ids: Sequence[int]) -> str:
    """Every token is one byte."""
    return bytes(ids).decode("utf-8", "replace")


def job_with(turn: str, size: int) -> tuple[Job, list[Ticket], Mailbox]:
    """A chat whose completion comes in events of so many bytes; the last event holds nothing but its end."""
    ids, mailbox = list(turn.encode()), Mailbox()
    request = GenerationRequest((1,), (0,), SamplingParams())
    job = Job(True, "m", "f", [(1,)], 1, as_bytes, None)  # type: ignore[arg-type]
    for start in range(0, len(ids), size):
        mailbox.put(Event(0, 0, ids[start : start + size]))
    nothing = np.zeros(0, np.float32)
    mailbox.put(Event(0, 0, completion=Completion(np.array(ids, np.int32), turn, nothing, nothing, "stop")))
    return job, [Ticket(0, mailbox, request=request)], mailbox


@pytest.mark.parametrize("size", [1, 2, 3, 7, 100])
def test_a_thought_is_apart_from_the_content(size: int) -> None:
    async def run() -> tuple[dict[str, Any], list[dict[str, Any]]]:
        job, tickets, mailbox = job_with(TURN, size)
        whole = await job.whole(tickets, mailbox)
        job, tickets, mailbox = job_with(TURN, size)
        lines = [line async for line in job.stream(tickets, mailbox, include_usage=False)]
        return whole, [json.loads(line.removeprefix(b"data: ")) for line in lines[:-1]]

    whole, chunks = asyncio.run(run())
    wanted = {"role": "assistant", "content": "so 4 <thin", "reasoning_content": "first 中 then"}
    assert whole["choices"][0]["message"] == wanted
    assert whole["usage"]["completion_tokens"] == len(TURN.encode())
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert "".join(d.get("reasoning_content", "") for d in deltas) == wanted["reasoning_content"]
    assert "".join(d.get("content", "") for d in deltas) == wanted["content"]
    assert [c["choices"][0]["finish_reason"] for c in chunks][-1] == "stop"
    assert not any("\ufffd" in text for d in deltas for text in d.values())


@pytest.mark.parametrize("turn", ["<thin", "<think>cut off </thi", "", "no thought"])
def test_what_was_held_back_comes_at_the_end(turn: str) -> None:
    async def run() -> dict[str, Any]:
        return await job_with(turn, 1)[0].whole(*job_with(turn, 1)[1:])

    message = asyncio.run(run())["choices"][0]["message"]
    thought = turn.removeprefix("<think>") if turn.startswith("<think>") else ""
    assert message["content"] == ("" if thought else turn)
    assert message.get("reasoning_content", "") == thought
