"""Errors as OpenAI's API words them: `{"error": {"message", "type", "param", "code"}}`."""

from __future__ import annotations

import re
import sys
import traceback
from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from rethink.serve.api_schema import HALF
from rethink.terminal import say

_CODES = {
    404: "not_found",
    405: "method_not_allowed",
    408: "request_timeout",
    413: "request_too_large",
    415: "unsupported_media_type",
    429: "queue_full",
}


class ApiError(Exception):
    """The error that a client receives.

    Args:
        status: of HTTP.
        message: what was given, what is allowed, what to send instead.
        param: the request's field, where one is at fault.
        code: for programs.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: dict[str, str] | None = None,
    ):
        super().__init__(message)
        self.status, self.message, self.param, self.code, self.headers = status, message, param, code, headers

    def body(self) -> dict[str, Any]:
        """The JSON body."""
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        if self.status == 429:
            kind = "rate_limit_error"
        return {
            "error": {"message": _clean(self.message), "type": kind, "param": _clean(self.param), "code": self.code}
        }

    def response(self) -> JSONResponse:
        """The whole answer."""
        return JSONResponse(self.body(), self.status, self.headers)


def _clean(text: str | None) -> str | None:
    """Halves of surrogate pairs, which a client may send and no answer can hold, become question marks."""
    return None if text is None else text.encode("utf-8", "replace").decode()


def wrong(message: str, param: str | None = None, code: str | None = "invalid_value") -> ApiError:
    """A 400."""
    return ApiError(400, message, param=param, code=code)


def install_handlers(app: FastAPI) -> None:
    """Every error of the app in OpenAI's shape."""

    async def api_error(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, ApiError)
        return error.response()

    async def invalid(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        return _explained(error).response()

    async def http_error(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        message = str(error.detail)
        if error.status_code == 404:
            message = f"there is nothing at {request.url.path}; the API is below /v1 (see /openapi.json)"
        elif error.status_code == 405:
            message = f"{request.method} is not allowed at {request.url.path}"
        code = _CODES.get(error.status_code, "invalid_request")
        headers = dict(error.headers) if error.headers else None
        return ApiError(error.status_code, message, code=code, headers=headers).response()

    async def bug(_: Request, error: Exception) -> JSONResponse:
        say("".join(traceback.format_exception(error)), file=sys.stderr, end="", flush=True)
        return ApiError(500, "the server failed on this request; its log says why", code="internal_error").response()

    app.add_exception_handler(ApiError, api_error)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, http_error)
    app.add_exception_handler(Exception, bug)


def _explained(error: RequestValidationError) -> ApiError:
    first = error.errors()[0]
    kind, message = first["type"], first["msg"]
    if kind == "json_invalid":
        reason = first.get("ctx", {}).get("error", "")
        return wrong(f"the body is not valid JSON ({reason})", code="invalid_json")
    param = _param(first["loc"])
    if kind == "extra_forbidden":
        return wrong(f"{param} is no parameter of this endpoint; leave it out", param, "unknown_parameter")
    if kind == "unsupported_parameter":
        return wrong(f"{param}: {message}", param, "unsupported_parameter")
    if kind == "string_unicode":
        return wrong(f"{param or 'the body'}: {HALF}", param)
    if kind == "missing":
        return wrong(f"{param or 'the body'} is missing", param, "missing_parameter")
    if param is None:
        return wrong(f"the body must be a JSON object, sent as application/json ({message})", code="invalid_body")
    return wrong(f"{param}: {message}", param)


def _param(place: Sequence[Any]) -> str | None:
    """`messages[0].content` for ("body", "messages", 0, "content", "str"): names of pydantic's branches are cut off."""
    text = ""
    for part in place[1:]:
        if isinstance(part, int):
            text += f"[{part}]"
        elif re.fullmatch(r"[a-z_]+", part) and part not in ("str", "int", "float", "bool", "constrained"):
            text += f".{part}" if text else part
        elif not text:
            text = part[:80]  # an unknown field with a name of any form
    return text or None
