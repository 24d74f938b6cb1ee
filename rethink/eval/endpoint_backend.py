"""Any OpenAI-compatible endpoint as a backend, so that a hosted model is measured by the same code.

Chats go to `/chat/completions`, the R1-Zero template (a text) to `/completions`. Every completion is a request of its
own with its own seed; a few are under way at once.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from typing import Any

from rethink.endpoint.client import command_line_client
from rethink.endpoint.reply import NoReply
from rethink.errors import EngineFailure
from rethink.eval.backend import OnReply, Question, Reply, Wanted
from rethink.model.text.r1_template import render_r1_zero
from rethink.recipe.schema import PromptSection
from rethink.store.as_trained import AsTrained
from rethink.types import Problem, SamplingParams

CONCURRENCY = 16
"""Requests under way at once."""
ATTEMPTS = 6
"""Tries of a request that meets a connection error, 429 or 5xx, with growing pauses."""
SECONDS = 3600.0
"""Time for one completion: long chains of thought on a busy server take many minutes."""
_PLACE = "{question}"


class EndpointBackend:
    """A model behind an endpoint.

    Args:
        model: its name there.
        url: the endpoint's base, which usually ends in `/v1`.

    Raises:
        UsageError: the URL is none.
    """

    context: int | None = None
    """Not known: the endpoint refuses what is too long."""
    trained: AsTrained | None = None
    """Not known either: a server of ours asks its model as it was trained."""

    def __init__(self, model: str, url: str):
        self.model, self._url = model, url
        self._client = command_line_client(
            model, url, seconds=SECONDS, attempts=ATTEMPTS, concurrency=CONCURRENCY
        )  # fmt: skip

    def describe(self) -> dict[str, Any]:
        """See `Backend`."""
        return {"backend": "endpoint", "model": self.model, "url": self._url}

    def question(self, section: PromptSection, problem: Problem) -> Question:
        """See `Backend`. The endpoint applies the chat template; a prefill cannot be given to it."""
        asked = section.instruction.replace(_PLACE, problem.question)
        pairs = [(section.instruction.replace(_PLACE, e.question), e.completion) for e in section.examples]
        if section.template == "r1-zero":
            return Question(render_r1_zero(asked, pairs))
        messages: list[Mapping[str, str]] = []
        if section.system is not None:
            messages.append({"role": "system", "content": section.system})
        for question, completion in pairs:
            messages += [{"role": "user", "content": question}, {"role": "assistant", "content": completion}]
        messages.append({"role": "user", "content": asked})
        return Question(json.dumps(messages, ensure_ascii=False), messages=tuple(messages))

    def answer(self, wanted: Sequence[Wanted], params: SamplingParams, on_reply: OnReply) -> None:
        """See `Backend`. Replies are handed over in the calling thread, in the order in which they come."""
        total, there = sum(len(item.seeds) for item in wanted), 0
        with ThreadPoolExecutor(CONCURRENCY, thread_name_prefix="endpoint") as pool:
            places: dict[Future[Reply], tuple[int, int]] = {
                pool.submit(self._one, item.question, seed, params): (i, j)
                for i, item in enumerate(wanted)
                for j, seed in enumerate(item.seeds)
            }
            try:
                for future in as_completed(places):
                    reply = future.result()
                    on_reply(*places.pop(future), reply)
                    there += 1
            except NoReply as failure:
                refused = self._client.explained(
                    failure, "where it is too long for the model, lower --max-new-tokens"
                )  # fmt: skip
                raise refused or EngineFailure(
                    f"the endpoint {self._url} stopped answering after {there} of the {total} completions that were "
                    f"missing ({failure.detail}). What came is kept: the same command resumes from there"
                ) from failure
            finally:
                # After a failure or Ctrl-C, what has not begun is not asked any more.
                pool.shutdown(wait=False, cancel_futures=True)

    def close(self) -> None:
        """See `Backend`."""
        self._client.close()

    def _one(self, question: Question, seed: int, params: SamplingParams) -> Reply:
        options: dict[str, Any] = {
            "temperature": params.temperature,
            "top_p": params.top_p,
            "max_tokens": params.max_new_tokens,
            "seed": seed,
            "n": 1,
        }
        if params.stop_strings:
            options["stop"] = list(params.stop_strings)
        reply = self._client.complete(question.messages or question.text, options)
        if reply.tokens is None:
            raise EngineFailure(
                f"the endpoint {self._url} sent an answer without usage, which this program needs to count tokens; use "
                "a server that sends it"
            )
        return Reply(reply.whole, reply.tokens, "length" if reply.cut else "stop", 0.0)
