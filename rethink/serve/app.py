"""The endpoints.

body (schema.py) ─► checks, prompt ids (a worker thread of asyncio's) ─► tickets ─► `Job` ─► JSON or a stream
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from starlette.responses import Response

import rethink
from rethink.model.tokenizer.tokenizer import Tokenizer
from rethink.serve import api_schema
from rethink.serve.api_errors import install_handlers, wrong
from rethink.serve.connection import ClientGone, EventStream, Guard, unless_gone
from rethink.serve.engine_thread import EngineThread
from rethink.serve.request_reading import (
    DEFAULT_TEXT_TOKENS,
    Prompter,
    chat_max_tokens,
    check_chat,
    check_model,
    check_text,
    generation,
    prompts_of,
)
from rethink.serve.responses import Job
from rethink.serve.tickets import Mailbox, Ticket
from rethink.serve.tokens import TokenTexts
from rethink.types import SamplingParams

_REFUSALS = {
    400: "The request cannot be carried out as given",
    401: "The key is missing or wrong",
    403: "The request is for another host",
    404: "There is no such model",
    408: "The body came too slowly",
    413: "The body is too large",
    429: "Too many requests wait",
    500: "The engine failed",
    503: "The engine is not running",
}
CLIENT_GONE = 499
"""Status of an answer that nobody reads, as nginx has it."""


def _responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {s: {"model": api_schema.ErrorBody, "description": _REFUSALS[s]} for s in statuses}


def _generated(what: str) -> dict[int | str, dict[str, Any]]:
    stream = {"schema": {"type": "string", "description": "With stream: chunks, each `data: {…}`, then `[DONE]`"}}
    return {200: {"description": what, "content": {"text/event-stream": stream}}, **_responses(*_REFUSALS)}


@dataclass(frozen=True, slots=True)
class Service:
    """What the endpoints work with."""

    engine: EngineThread
    tokenizer: Tokenizer
    prompter: Prompter
    texts: TokenTexts
    model: str
    fingerprint: str

    def job(self, chat: bool, body: api_schema.SamplingFields, prompts: Sequence[Sequence[int]], **further: Any) -> Job:
        """A job of this model."""
        return Job(
            chat=chat,
            model=self.model,
            fingerprint=self.fingerprint,
            prompts=prompts,
            n=body.n or 1,
            decode=self.tokenizer.decode,
            texts=self.texts,
            **further,
        )

    async def answer(self, http: Request, body: api_schema.SamplingFields, job: Job, tickets: list[Ticket]) -> Response:
        """Submit the tickets and answer, whole or as a stream.

        Raises:
            ApiError: the engine does not take them, or broke.
        """
        mailbox = Mailbox()
        for ticket in tickets:
            ticket.mailbox, ticket.streams = mailbox, bool(body.stream)
        self.engine.submit(tickets)
        if body.stream:
            usage = body.stream_options is not None and bool(body.stream_options.include_usage)
            chunks = job.stream(tickets, mailbox, include_usage=usage)
            return EventStream(chunks, lambda: self.engine.cancel(tickets))
        try:
            return JSONResponse(await unless_gone(http.receive, job.whole(tickets, mailbox)))
        except ClientGone:
            return Response(status_code=CLIENT_GONE)
        finally:
            self.engine.cancel(tickets)


def make_service(engine: EngineThread, prompter: Prompter) -> Service:
    """A service of one model."""
    tokenizer, fingerprint = prompter.tokenizer, f"rethink-{rethink.__version__}"
    return Service(engine, tokenizer, prompter, TokenTexts(tokenizer), prompter.name, fingerprint)


def make_app(service: Service, api_key: str | None = None, hosts: Collection[str] | None = None) -> FastAPI:
    """The application; see `Guard` for key and hosts. Its lifespan starts and ends the engine's thread."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        service.engine.start(asyncio.get_running_loop())
        yield
        await asyncio.to_thread(service.engine.stop)

    app = FastAPI(
        title="Rethink",
        version=rethink.__version__,
        description="OpenAI-compatible completions of one model, by `rethink serve`. See docs/serve.md.",
        lifespan=lifespan,
        docs_url=None,  # these pages load scripts from the network
        redoc_url=None,
    )
    install_handlers(app)
    app.add_middleware(Guard, api_key=api_key, hosts=hosts)
    _add_information(app, service)
    _add_generation(app, service)
    return app


def _add_information(app: FastAPI, service: Service) -> None:
    card = api_schema.ModelCard(
        id=service.model,
        object="model",
        created=int(time.time()),
        owned_by="rethink",
        max_model_len=service.prompter.max_model_len,
    )

    @app.get("/health", responses={503: {"model": api_schema.Health, "description": "The engine has failed"}})
    async def health() -> api_schema.Health:
        """Whether completions can be had, and how busy the engine is."""
        failed = service.engine.failed
        found = api_schema.Health(status="failed" if failed else "ok", **service.engine.counts())
        return JSONResponse(found.model_dump(), 503) if failed else found  # type: ignore[return-value]

    @app.get("/v1/models", responses=_responses(401, 403))
    async def models() -> api_schema.ModelList:
        """The model that is served."""
        return api_schema.ModelList(object="list", data=[card])

    @app.get("/v1/models/{model:path}", responses=_responses(401, 403, 404))
    async def model(model: str) -> api_schema.ModelCard:
        """One model."""
        check_model(model, service.model)
        return card


def _add_generation(app: FastAPI, service: Service) -> None:
    @app.post("/v1/chat/completions", response_model=api_schema.ChatCompletion, responses=_generated("The completions"))
    async def chat(body: api_schema.ChatRequest, http: Request) -> Response:
        """Continue a conversation. Thoughts are in `reasoning_content`."""
        check_model(body.model, service.model)
        check_chat(body)
        limit = chat_max_tokens(body)
        service.engine.check_places(body.n or 1)
        prompt = await asyncio.to_thread(service.prompter.chat_prompt, body.messages)
        ids = prompt.token_ids
        if not ids:
            raise wrong("the conversation renders to no tokens; send a message", "messages")
        params = service.prompter.params(body, [ids], limit, "messages")
        top = (body.top_logprobs or 0) if body.logprobs else None
        job = service.job(True, body, [ids], stop_strings=params.stop_strings, begun=prompt.prefill, top=top)
        return await service.answer(http, body, job, [_ticket(0, ids, body, params, top)])

    @app.post("/v1/completions", response_model=api_schema.TextCompletion, responses=_generated("The completions"))
    async def text(body: api_schema.CompletionRequest, http: Request) -> Response:
        """Continue texts. With `echo` and `logprobs`, the prompts' tokens have log-probabilities too."""
        check_model(body.model, service.model)
        check_text(body)
        given = prompts_of(body.prompt)
        service.engine.check_places(len(given) * (body.n or 1))
        special = body.add_special_tokens is not False
        prompts = await asyncio.to_thread(service.prompter.text_ids, given, special=special)
        if not all(prompts):
            raise wrong("a prompt has no tokens; give at least one", "prompt")
        limit = DEFAULT_TEXT_TOKENS if body.max_tokens is None else body.max_tokens
        params = service.prompter.params(body, prompts, limit, "prompt")
        job = service.job(
            False,
            body,
            prompts,
            stop_strings=params.stop_strings,
            echoes=[service.tokenizer.decode(ids) for ids in prompts] if body.echo else None,
            top=body.logprobs,
            generates=limit > 0,
        )
        tickets = [_ticket(i, ids, body, params, body.logprobs) for i, ids in enumerate(prompts)] if limit else []
        if job.scores:
            tickets += [Ticket(i, _NOBODY, text_ids=ids, top=body.logprobs) for i, ids in enumerate(prompts)]
        return await service.answer(http, body, job, tickets)


def _ticket(
    number: int, ids: tuple[int, ...], body: api_schema.SamplingFields, params: SamplingParams, top: int | None
) -> Ticket:
    return Ticket(number, _NOBODY, request=generation(ids, body, params), top=top)


_NOBODY: Any = None
"""Mailbox of a ticket before it is submitted."""
