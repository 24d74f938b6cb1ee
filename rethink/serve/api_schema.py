"""Requests and answers of the API, field by field: what is checked here is what `/openapi.json` says."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, WrapValidator, model_validator
from pydantic_core import PydanticCustomError, ValidationError

MOST_SAMPLES = 128
MOST_ALTERNATIVES = 20
MOST_PROMPTS = 4096
"""Texts, messages or parts in an array; more are refused before each is looked at."""
MOST_FIELDS = 200
LARGEST_SEED = 2**63 - 1


def _neutral(*allowed: Any) -> AfterValidator:
    """Parameters that are not supported may be sent with a value that changes nothing, as many clients do."""

    def check(value: Any) -> Any:
        if value is not None and value not in allowed:
            shown = ", ".join(["null", *map(json.dumps, allowed)])
            raise PydanticCustomError(
                "unsupported_parameter",
                "this server does not support it with this value (allowed: {allowed}); leave it out",
                {"allowed": shown},
            )
        return value

    return AfterValidator(check)


Zero = Annotated[float | None, _neutral(0)]
One = Annotated[float | None, _neutral(1)]
Off = Annotated[bool | None, _neutral(False)]
On = Annotated[bool | None, _neutral(True)]
Absent = Annotated[Any, _neutral("", [], {})]


def _one_message(message: str, most: int | None = None) -> WrapValidator:
    """One message for a union, instead of one for each of its branches.

    Args:
        most: entries of an array, other than of numbers, that are looked at; None: all.
    """

    def check(value: Any, handler: Callable[[Any], Any]) -> Any:
        if most is not None and isinstance(value, list) and len(value) > most and type(value[0]) is not int:
            raise PydanticCustomError(
                "invalid", "{n} entries are more than the {most} allowed", {"n": len(value), "most": most}
            )
        try:
            return handler(value)
        except ValidationError as error:
            if any(one["type"] in ("surrogate", "string_unicode") for one in error.errors(include_input=False)):
                raise PydanticCustomError("surrogate", HALF) from error
            raise PydanticCustomError("invalid", message) from error

    return WrapValidator(check)


HALF = "it holds half of a surrogate pair (such as \\ud83d alone), which is no text; send whole characters"


def _encodable(text: str) -> str:
    """JSON can spell half of a surrogate pair, which is no text."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise PydanticCustomError("surrogate", HALF) from error
    return text


AnyText = Annotated[str, AfterValidator(_encodable)]
Text = Annotated[AnyText, StringConstraints(min_length=1)]
StopString = Annotated[AnyText, StringConstraints(min_length=1, max_length=256)]
TokenId = Annotated[int, Field(ge=0, lt=2**31)]


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _few_fields(cls, value: Any) -> Any:
        """Every unknown field is an error of its own, so they are counted first."""
        if isinstance(value, dict) and len(value) > MOST_FIELDS:
            raise PydanticCustomError("invalid", "{n} fields are more than any request has", {"n": len(value)})
        return value


class StreamOptions(BaseModel):
    """Options of a stream."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)
    include_usage: bool | None = None
    """Whether a last chunk holds the usage."""


class SamplingFields(_Strict):
    """What both endpoints take."""

    model: AnyText
    n: Annotated[int, Field(ge=1, le=MOST_SAMPLES)] | None = None
    """Completions of each prompt."""
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    """0 is greedy; 1 unless given."""
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1)] | None = None
    """An extension: most likely tokens kept; 0 and -1 keep all."""
    seed: Annotated[int, Field(ge=-LARGEST_SEED - 1, le=LARGEST_SEED)] | None = None
    """Completion i is drawn with seed + i; without one, with a random seed."""
    stop: Annotated[
        StopString | Annotated[list[StopString], Field(max_length=16, fail_fast=True)] | None,
        _one_message("give one text or an array of at most 16, each of 1 to 256 characters"),
    ] = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    ignore_eos: bool | None = None
    """An extension: the tokens that end a turn do not end the completion."""
    # Taken and not looked at.
    user: str | None = None
    metadata: dict[str, Any] | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None
    safety_identifier: str | None = None
    request_id: str | None = None
    cache_salt: str | None = None
    cache_prompt: bool | None = None
    priority: int | None = None
    # Not supported: only values that change nothing, which clients of OpenAI, vLLM, SGLang, TGI and llama.cpp send.
    frequency_penalty: Zero = None
    presence_penalty: Zero = None
    logit_bias: Absent = None
    service_tier: Annotated[str | None, _neutral("auto", "default")] = None
    response_format: Annotated[dict[str, Any] | None, _neutral({"type": "text"})] = None
    best_of: Annotated[int, Field(ge=1, le=MOST_SAMPLES)] | None = None
    """1, or as many as n."""
    use_beam_search: Off = None
    early_stopping: Off = None
    length_penalty: One = None
    repetition_penalty: One = None
    repeat_penalty: One = None
    min_p: Zero = None
    top_a: Zero = None
    typical_p: One = None
    tfs_z: One = None
    mirostat: Zero = None
    min_tokens: Zero = None
    stop_token_ids: Absent = None
    bad_words: Absent = None
    allowed_token_ids: Absent = None
    logits_processors: Absent = None
    include_stop_str_in_output: Off = None
    skip_special_tokens: On = None
    spaces_between_special_tokens: On = None
    detokenize: On = None
    truncate: Absent = None
    truncate_prompt_tokens: Absent = None
    prompt_logprobs: Absent = None
    return_token_ids: Off = None
    return_tokens_as_token_ids: Off = None
    watermark: Off = None
    lora_path: Absent = None
    adapter_id: Absent = None
    grammar: Absent = None
    regex: Absent = None
    ebnf: Absent = None
    json_schema: Absent = None
    structured_outputs: Absent = None
    guided_json: Absent = None
    guided_regex: Absent = None
    guided_choice: Absent = None
    guided_grammar: Absent = None
    guided_decoding_backend: str | None = None
    kv_transfer_params: Absent = None
    vllm_xargs: Absent = None


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
        AnyText | Annotated[list[TextPart], Field(fail_fast=True)] | None,
        _one_message(
            'give a text, or an array of {"type": "text", "text": …}; other parts are not supported', MOST_PROMPTS
        ),
    ] = None
    tool_calls: Annotated[list[Any] | None, _neutral([])] = None


class ChatRequest(SamplingFields):
    """Body of `/v1/chat/completions`."""

    messages: Annotated[list[Message], Field(min_length=1, max_length=MOST_PROMPTS, fail_fast=True)]
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    """Most tokens generated, thoughts included; what the context leaves unless given."""
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    """Newer name of `max_tokens`."""
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MOST_ALTERNATIVES)] | None = None
    # Taken and not looked at.
    parallel_tool_calls: bool | None = None
    include_reasoning: On = None
    separate_reasoning: On = None
    stream_reasoning: On = None
    # Not supported: only values that change nothing.
    store: Off = None
    tools: Absent = None
    tool_choice: Annotated[Any, _neutral("none", "auto")] = None
    tool_prompt: Absent = None
    functions: Absent = None
    function_call: Annotated[Any, _neutral("none", "auto")] = None
    modalities: Annotated[list[str] | None, _neutral(["text"])] = None
    audio: Absent = None
    prediction: Absent = None
    web_search_options: Absent = None
    reasoning_effort: Annotated[str | None, _neutral()] = None
    verbosity: Annotated[str | None, _neutral("medium")] = None
    echo: Off = None
    add_generation_prompt: On = None
    continue_final_message: Off = None
    add_special_tokens: Off = None
    """The template writes them."""
    documents: Absent = None
    chat_template: Absent = None
    chat_template_kwargs: Absent = None
    mm_processor_kwargs: Absent = None


class CompletionRequest(SamplingFields):
    """Body of `/v1/completions`."""

    prompt: Annotated[
        Text
        | Annotated[list[Text], Field(min_length=1, fail_fast=True)]
        | Annotated[list[TokenId], Field(min_length=1, fail_fast=True)]
        | Annotated[
            list[Annotated[list[TokenId], Field(min_length=1, fail_fast=True)]], Field(min_length=1, fail_fast=True)
        ],
        _one_message(
            "give a text, an array of texts, an array of token ids, or an array of arrays of token ids, none empty",
            MOST_PROMPTS,
        ),
    ]
    max_tokens: Annotated[int, Field(ge=0)] | None = None
    """Most tokens generated; 16 unless given. 0 only with `echo`."""
    echo: bool | None = None
    """Begin with the prompt; with `logprobs`, its tokens have theirs."""
    logprobs: Annotated[int, Field(ge=0, le=MOST_ALTERNATIVES)] | None = None
    """Alternatives shown with each token's log-probability."""
    add_special_tokens: bool | None = None
    """An extension: whether a text begins with the tokens that the tokenizer puts before it; true unless given."""
    # Not supported: only values that change nothing.
    suffix: Absent = None
    return_full_text: Off = None
    details: Off = None
    decoder_input_details: Off = None


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
