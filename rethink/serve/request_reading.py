"""From a request of HTTP to prompt ids and sampling parameters, or to the reason why not."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import cast

from rethink.errors import ModelError
from rethink.model.text.prompt import PromptRenderer
from rethink.model.tokenizer.tokenizer import Tokenizer
from rethink.model.trained import render_messages
from rethink.serve.api_errors import ApiError, wrong
from rethink.serve.api_schema import ChatRequest, CompletionRequest, Message, SamplingFields
from rethink.types import GenerationRequest, Prompt, SamplingParams

DEFAULT_TEXT_TOKENS = 16
"""`max_tokens` of `/v1/completions` unless given, as at OpenAI."""


@dataclass(frozen=True)
class Prompter:
    """Makes prompts for one model.

    Args:
        tokenizer: of the model.
        name: of the model, for messages.
        max_model_len: longest sequence.
        vocab_size: of the model.
        renderer: renders conversations as the model was trained; None: its chat template does.
        stop_strings: of conversations with a model that is asked as it was trained.
    """

    tokenizer: Tokenizer
    name: str
    max_model_len: int
    vocab_size: int
    renderer: PromptRenderer | None = None
    stop_strings: tuple[str, ...] = ()

    def chat_prompt(self, messages: Sequence[Message]) -> Prompt:
        """A rendered conversation, with what it already begins of the assistant's turn.

        Raises:
            ApiError: there is no chat template, it refuses the conversation, or the prompt is too long.
        """
        if self.tokenizer.chat_template is None and self.renderer is None:
            raise wrong(
                f"the model {self.name} has no chat template (it is probably a base model), so it cannot take "
                "messages; send a text to /v1/completions, or serve an instruction-tuned model",
                "messages",
                "chat_template_missing",
            )
        turns = [{"role": _role(m), "content": _content(m)} for m in messages]
        self._check_length(sum(len(turn["content"]) for turn in turns), "messages")
        try:
            return render_messages(self.tokenizer, turns, self.renderer)
        except ModelError as error:
            cause = error.__cause__ or error
            roles = ", ".join(turn["role"] for turn in turns)
            raise wrong(
                f"the model's chat template refuses this conversation (roles: {roles}): {cause}",
                "messages",
                "chat_template_refused",
            ) from error

    def text_ids(self, prompts: Sequence[str | Sequence[int]], *, special: bool = True) -> list[tuple[int, ...]]:
        """Ids of each prompt of a text completion.

        Args:
            prompts: see `prompts_of`.
            special: whether texts begin with the tokenizer's own tokens.

        Raises:
            ApiError: a prompt is too long, or has ids that the model does not know.
        """
        return [self._begun(p, special) if isinstance(p, str) else self._known(p) for p in prompts]

    def params(
        self, body: SamplingFields, prompts: Sequence[Sequence[int]], max_tokens: int | None, param: str
    ) -> SamplingParams:
        """Sampling as asked for, with the model's end-of-turn tokens as stops.

        Args:
            body: the request.
            prompts: ids of each; the longest must leave room.
            max_tokens: most new tokens; None: what the context leaves to the longest prompt.
            param: name of the field that holds the prompts.

        Raises:
            ApiError: prompt and completion do not fit the context.
        """
        longest = max(len(ids) for ids in prompts)
        room = self.max_model_len - longest
        wanted = 1 if max_tokens is None else max_tokens
        if room < wanted:
            asked = "" if max_tokens is None else f" and up to {max_tokens} completion tokens"
            instead = f"lower max_tokens to {room} or less" if room >= 1 else "shorten the prompt"
            raise wrong(
                f"this model's context is {self.max_model_len} tokens, but the request has {longest} prompt tokens"
                f"{asked}; {instead}",
                param if room < 1 else "max_tokens",
                "context_length_exceeded",
            )
        stop = body.stop or ()
        stops = (stop,) if isinstance(stop, str) else tuple(stop)
        return SamplingParams(
            temperature=1.0 if body.temperature is None else body.temperature,
            top_p=1.0 if body.top_p is None else body.top_p,
            top_k=max(body.top_k or 0, 0),
            max_new_tokens=room if max_tokens is None else max_tokens,
            stop_strings=tuple(dict.fromkeys((*stops, *self.stop_strings))) if param == "messages" else stops,
            stop_token_ids=() if body.ignore_eos else tuple(sorted(self.tokenizer.end_of_turn_ids)),
        )

    def _begun(self, text: str, special: bool) -> tuple[int, ...]:
        bos = self.tokenizer.bos_id if special and self.tokenizer.adds_bos else None
        return (*([] if bos is None else [bos]), *self._encode(text, "prompt"))

    def _encode(self, text: str, param: str) -> tuple[int, ...]:
        self._check_length(len(text), param)
        return tuple(self.tokenizer.encode(text))

    def _check_length(self, letters: int, param: str) -> None:
        """Refuse a text so long that counting its tokens would take seconds."""
        least = letters // self._longest_token
        if least > self.max_model_len:
            raise wrong(
                f"this model's context is {self.max_model_len} tokens, but the prompt has {letters} characters, so "
                f"at least {least} tokens; shorten it",
                param,
                "context_length_exceeded",
            )

    def _known(self, ids: Sequence[int]) -> tuple[int, ...]:
        if max(ids) >= self.vocab_size:
            raise wrong(
                f"the token id {max(ids)} is not in the vocabulary of {self.name}, whose ids are below "
                f"{self.vocab_size}",
                "prompt",
            )
        return tuple(ids)

    @cached_property
    def _longest_token(self) -> int:
        """Most characters per token."""
        spelled = (self.tokenizer.id_to_token(i) for i in range(self.tokenizer.vocab_size))
        return max((len(token) for token in spelled if token is not None), default=1) or 1


def prompts_of(prompt: str | list[str] | list[int] | list[list[int]]) -> Sequence[str | Sequence[int]]:
    """The prompts of a text completion: texts, or token ids."""
    single = isinstance(prompt, str) or isinstance(prompt[0], int)
    return cast(Sequence[str | Sequence[int]], [prompt] if single else prompt)


def _role(message: Message) -> str:
    return "system" if message.role == "developer" else message.role


def _content(message: Message) -> str:
    if isinstance(message.content, list):
        return "".join(part.text for part in message.content)
    return message.content or ""


def generation(ids: tuple[int, ...], body: SamplingFields, params: SamplingParams) -> GenerationRequest:
    """A prompt's samples: completion i is drawn with seed + i."""
    first = secrets.randbits(63) if body.seed is None else body.seed
    return GenerationRequest(ids, tuple(first + i for i in range(body.n or 1)), params)


def chat_max_tokens(body: ChatRequest) -> int | None:
    """`max_tokens` by either of its names.

    Raises:
        ApiError: both are given and differ.
    """
    old, new = body.max_tokens, body.max_completion_tokens
    if old is not None and new is not None and old != new:
        raise wrong(
            f"max_tokens ({old}) and max_completion_tokens ({new}) are two names of one limit and differ; send one",
            "max_completion_tokens",
        )
    return new if old is None else old


def check_chat(body: ChatRequest) -> None:
    """Refuse values that contradict each other.

    Raises:
        ApiError: see above.
    """
    if body.top_logprobs and not body.logprobs:
        raise wrong("top_logprobs needs logprobs: true", "top_logprobs")
    _check_sampling(body)


def check_text(body: CompletionRequest) -> None:
    """Refuse values that contradict each other.

    Raises:
        ApiError: see above.
    """
    if body.max_tokens == 0 and not body.echo:
        raise wrong("max_tokens of 0 generates nothing; ask for at least 1, or set echo: true", "max_tokens")
    _check_sampling(body)


def _check_sampling(body: SamplingFields) -> None:
    if body.stream_options is not None and body.stream_options.include_usage and not body.stream:
        raise wrong("stream_options needs stream: true", "stream_options")
    if body.best_of not in (None, 1, body.n or 1):
        raise wrong(
            f"best_of ({body.best_of}) other than 1 or n ({body.n or 1}) is not supported; leave it out",
            "best_of",
            "unsupported_parameter",
        )


def check_model(asked: str, served: str) -> None:
    """Refuse another model than the served one.

    Raises:
        ApiError: 404.
    """
    if asked != served:
        raise ApiError(
            404, f"there is no model {asked!r} here; this server has {served!r}", param="model", code="model_not_found"
        )
