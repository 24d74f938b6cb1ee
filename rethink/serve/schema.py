"""Requests and answers of the API, field by field: what is checked here is what `/openapi.json` says."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, WrapValidator
from pydantic_core import PydanticCustomError, ValidationError

MOST_SAMPLES = 128
MOST_ALTERNATIVES = 20
LARGEST_SEED = 2**63 - 1


def _neutral(*allowed: Any) -> AfterValidator:
    """Parameters that are not supported may be sent with a value that changes nothing."""

    def check(value: Any) -> Any:
        if value is not None and value not in allowed:
            raise PydanticCustomError(
                "unsupported_parameter", "this server does not support it with this value; leave it out"
            )
        return value

    return AfterValidator(check)


def _one_message(message: str) -> WrapValidator:
    """One message for a union, instead of one for each of its branches."""

    def check(value: Any, handler: Callable[[Any], Any]) -> Any:
        try:
            return handler(value)
        except ValidationError as error:
            raise PydanticCustomError("invalid", message) from error

    return WrapValidator(check)


def _encodable(text: str) -> str:
    """JSON can spell half of a surrogate pair, which is no text."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise PydanticCustomError("invalid", "half of a surrogate pair is no text") from error
    return text


AnyText = Annotated[str, AfterValidator(_encodable)]
Text = Annotated[AnyText, StringConstraints(min_length=1)]
StopString = Annotated[AnyText, StringConstraints(min_length=1, max_length=256)]
TokenId = Annotated[int, Field(ge=0, lt=2**31)]


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)


class StreamOptions(BaseModel):
    """Options of a stream."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)
    include_usage: bool | None = None
    """Whether a last chunk holds the usage."""


class SamplingFields(_Strict):
    """What both endpoints take."""

    model: str
    n: Annotated[int, Field(ge=1, le=MOST_SAMPLES)] | None = None
    """Completions of each prompt."""
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    """0 is greedy; 1 unless given."""
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0)] | None = None
    """An extension: most likely tokens kept; 0 keeps all."""
    seed: Annotated[int, Field(ge=-LARGEST_SEED - 1, le=LARGEST_SEED)] | None = None
    """Completion i is drawn with seed + i; without one, with a random seed."""
    stop: Annotated[
        StopString | Annotated[list[StopString], Field(max_length=16)] | None,
        _one_message("give one text or an array of at most 16, each of 1 to 256 characters"),
    ] = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    # Taken and not looked at.
    user: str | None = None
    # Not supported: only values that change nothing.
    frequency_penalty: Annotated[float | None, _neutral(0)] = None
    presence_penalty: Annotated[float | None, _neutral(0)] = None
    logit_bias: Annotated[dict[str, Any] | None, _neutral({})] = None


class TextPart(BaseModel):
    """A part of a message."""

    model_config = ConfigDict(strict=True)
    type: Literal["text"]
    text: AnyText


class Message(BaseModel):
    """A turn. Other fields, such as `name` and `reasoning_content`, are not looked at."""

    model_config = ConfigDict(strict=True)
    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[
        AnyText | list[TextPart] | None,
        _one_message('give a text, or an array of {"type": "text", "text": …}; other parts are not supported'),
    ] = None
    tool_calls: Annotated[list[Any] | None, _neutral([])] = None


class ChatRequest(SamplingFields):
    """Body of `/v1/chat/completions`."""

    messages: Annotated[list[Message], Field(min_length=1)]
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    """Most tokens generated, thoughts included; what the context leaves unless given."""
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    """Newer name of `max_tokens`."""
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MOST_ALTERNATIVES)] | None = None
    # Taken and not looked at.
    metadata: dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    # Not supported: only values that change nothing.
    store: Annotated[bool | None, _neutral(False)] = None
    tools: Annotated[list[Any] | None, _neutral([])] = None
    tool_choice: Annotated[Any, _neutral("none", "auto")] = None
    functions: Annotated[list[Any] | None, _neutral([])] = None
    function_call: Annotated[Any, _neutral("none", "auto")] = None
    response_format: Annotated[dict[str, Any] | None, _neutral({"type": "text"})] = None
    modalities: Annotated[list[str] | None, _neutral(["text"])] = None
    reasoning_effort: Annotated[str | None, _neutral()] = None


class CompletionRequest(SamplingFields):
    """Body of `/v1/completions`."""

    prompt: Annotated[
        Text
        | Annotated[list[Text], Field(min_length=1)]
        | Annotated[list[TokenId], Field(min_length=1)]
        | Annotated[list[Annotated[list[TokenId], Field(min_length=1)]], Field(min_length=1)],
        _one_message(
            "give a text, an array of texts, an array of token ids, or an array of arrays of token ids, none empty"
        ),
    ]
    max_tokens: Annotated[int, Field(ge=0)] | None = None
    """Most tokens generated; 16 unless given. 0 only with `echo`."""
    echo: bool | None = None
    """Begin with the prompt; with `logprobs`, its tokens have theirs."""
    logprobs: Annotated[int, Field(ge=0, le=MOST_ALTERNATIVES)] | None = None
    """Alternatives shown with each token's log-probability."""
    # Not supported: only values that change nothing.
    best_of: Annotated[int | None, _neutral(1)] = None
    suffix: Annotated[str | None, _neutral("")] = None


class Usage(BaseModel):
    """Tokens of prompts (each once) and of all completions."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class Alternative(BaseModel):
    """A token with its log-probability at temperature 1."""

    token: str
    logprob: float
    bytes: list[int] | None = None


class TokenInfo(Alternative):
    """A generated token."""

    top_logprobs: list[Alternative]


class ChatLogprobs(BaseModel):
    """Log-probabilities of a chat completion."""

    content: list[TokenInfo]


class AnswerMessage(BaseModel):
    """The assistant's turn."""

    role: Literal["assistant"]
    content: str
    reasoning_content: str | None = None
    """What `<think>` enclosed."""


class ChatChoice(BaseModel):
    """One completion."""

    index: int
    message: AnswerMessage
    logprobs: ChatLogprobs | None = None
    finish_reason: Literal["stop", "length"]


class ChatCompletion(BaseModel):
    """Answer of `/v1/chat/completions`."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChatChoice]
    usage: Usage


class TextLogprobs(BaseModel):
    """Log-probabilities of a text completion; those of the prompt's first token are null."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class TextChoice(BaseModel):
    """One completion."""

    index: int
    text: str
    logprobs: TextLogprobs | None = None
    finish_reason: Literal["stop", "length"]


class TextCompletion(BaseModel):
    """Answer of `/v1/completions`."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[TextChoice]
    usage: Usage


class ModelCard(BaseModel):
    """A model."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    max_model_len: int
    """Longest sequence: prompt and completion."""


class ModelList(BaseModel):
    """Answer of `/v1/models`."""

    object: Literal["list"]
    data: list[ModelCard]


class Health(BaseModel):
    """Answer of `/health`."""

    status: Literal["ok", "failed"]
    running: int
    """Completions being generated."""
    waiting: int
    """Prompts that have not started."""
    pages: int
    """Pages of keys and values."""
    pages_free: int


class ErrorDetail(BaseModel):
    """What is wrong."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(BaseModel):
    """Answer of every request that fails."""

    error: ErrorDetail
