"""Any OpenAI-compatible endpoint as a backend, so that a hosted model is measured by the same code.

Chats go to `/chat/completions`, the R1-Zero template (a text) to `/completions`. Every completion is a request of its
own with its own seed; a few are under way at once.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from typing import Any

from rethink.errors import EngineFailure, RethinkError, UsageError
from rethink.eval.backend import OnReply, Question, Reply, Wanted
from rethink.model.r1_template import render_r1_zero
from rethink.model.thoughts import END_THINK, THINK
from rethink.recipe.schema import PromptSection
from rethink.types import FinishReason, Problem, SamplingParams

KEY_VARIABLES = ("RETHINK_API_KEY", "OPENAI_API_KEY")
"""Where the key is looked for; it is sent to the endpoint and written nowhere."""
CONCURRENCY = 16
"""Requests under way at once."""
RETRIES = 5
"""Further tries of a request that met a connection error, 429 or 5xx, with growing pauses."""
SECONDS = 3600.0
"""Time for one completion: long chains of thought on a busy server take many minutes."""
_PLACE = "{question}"


class EndpointBackend:
    """A model behind an endpoint.

    Args:
        model: its name there.
        url: the endpoint's base, which usually ends in `/v1`.

    Raises:
        UsageError: the package `openai` is missing, or the URL is none.
    """

    context: int | None = None
    """Not known: the endpoint refuses what is too long."""

    def __init__(self, model: str, url: str):
        if not url.startswith(("http://", "https://")):
            raise UsageError(f"--endpoint {url!r} is no URL; give one like http://127.0.0.1:8000/v1")
        try:
            import openai
        except ImportError as error:
            raise UsageError(
                "an endpoint needs the package `openai`; install the extra: pip install 'rethink[eval]'"
            ) from error
        self._openai = openai
        self.model = model
        self._url = url
        key = next((os.environ[name] for name in KEY_VARIABLES if os.environ.get(name)), "none")
        self._client = openai.OpenAI(base_url=url, api_key=key, max_retries=RETRIES, timeout=SECONDS)

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
            except self._openai.OpenAIError as error:
                raise self._explained(error, there, total) from error
            finally:
                # After a failure or Ctrl-C, what has not begun is not asked any more.
                pool.shutdown(wait=False, cancel_futures=True)

    def close(self) -> None:
        """See `Backend`."""
        self._client.close()

    def _one(self, question: Question, seed: int, params: SamplingParams) -> Reply:
        common: dict[str, Any] = {
            "model": self.model,
            "temperature": params.temperature,
            "top_p": params.top_p,
            "max_tokens": params.max_new_tokens,
            "seed": seed,
            "n": 1,
        }
        if params.stop_strings:
            common["stop"] = list(params.stop_strings)
        if question.messages:
            messages: Any = question.messages
            answer = self._client.chat.completions.create(messages=messages, **common)
            choice = answer.choices[0] if answer.choices else None
            text = "" if choice is None else _whole_text(choice.message)
        else:
            answer = self._client.completions.create(prompt=question.text, **common)
            choice = answer.choices[0] if answer.choices else None
            text = "" if choice is None else choice.text or ""
        if choice is None or answer.usage is None:
            raise EngineFailure(
                f"the endpoint {self._url} sent an answer without choices or usage, which this program needs to count "
                "tokens; use a server that sends both"
            )
        reason: FinishReason = "length" if choice.finish_reason == "length" else "stop"
        return Reply(text, answer.usage.completion_tokens, reason, 0.0)

    def _explained(self, error: Exception, there: int, total: int) -> RethinkError:
        openai = self._openai
        said = " ".join(str(error).split())[:300]
        if isinstance(error, openai.AuthenticationError | openai.PermissionDeniedError):
            return UsageError(
                f"the endpoint {self._url} refuses the key ({said}); set it in the environment variable "
                f"{KEY_VARIABLES[0]}"
            )
        if isinstance(error, openai.NotFoundError):
            return UsageError(
                f"the endpoint {self._url} does not know the model {self.model!r} or the address ({said}); its models "
                f"are listed at {self._url.rstrip('/')}/models"
            )
        if isinstance(error, openai.BadRequestError | openai.UnprocessableEntityError):
            return UsageError(
                f"the endpoint {self._url} refuses the request ({said}); where it is too long for the model, lower "
                "--max-new-tokens"
            )
        return EngineFailure(
            f"the endpoint {self._url} stopped answering after {there} of the {total} completions that were missing "
            f"({type(error).__name__}: {said}). What came is kept: the same command goes on from there"
        )


def _whole_text(message: Any) -> str:
    """The turn with its thought, which servers with a reasoning parser send in a field of its own."""
    content = message.content or ""
    thought = getattr(message, "reasoning_content", None) or getattr(message, "reasoning", None)
    if not isinstance(thought, str) or not thought:
        return content
    return f"{THINK}\n{thought}\n" + (f"{END_THINK}\n\n{content}" if content else "")
