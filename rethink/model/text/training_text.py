"""From a conversation to the token ids that are trained on: which of them are in the loss is said token by token.

A trained turn is what the model would have to write after the prompt that it would be given: the prompt is rendered
with the template's generation prompt, as for sampling, and the turn's text follows it word for word, with the
template's end of turn. No template ever sees a trained turn, so none can cut a thought out of it; and where several
turns are trained on, each later prompt must begin with what was trained on before, or the conversation is refused.

Axes: T tokens of a document.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from rethink.errors import ModelError, TaskError
from rethink.model.text.prompt import closed_by_template, missing_generation_prompt, opened_by_template
from rethink.model.text.r1_template import render_r1_zero, spaced
from rethink.model.text.thoughts import END_THINK, THINK
from rethink.model.tokenizer.tokenizer import Tokenizer
from rethink.types import UNTRAINED

Message = Mapping[str, str]
Template = Literal["chat", "r1-zero", "raw"]
Turns = Literal["all", "last"]

_MARK = "\ue000turn\ue001"
_SHOWN = 60


@dataclass(frozen=True, slots=True)
class Document:
    """One row, ready to be packed. It ends with its last trained token: what follows has no part in the loss."""

    token_ids: npt.NDArray[np.int32]
    """[T]"""
    trained: npt.NDArray[np.bool_]
    """[T]: which tokens are targets. The first never is: nothing predicts it."""

    @property
    def target_tokens(self) -> int:
        """Tokens in the loss."""
        return int(self.trained.sum())


class ConversationRenderer:
    """Renders conversations for training.

    Args:
        tokenizer: of the model that is trained.
        template: `chat` (the model's own), `r1-zero` or `raw`.
        system: put before conversations that bring no system message (`chat` only).
        turns: which assistant turns are targets.

    Raises:
        ModelError: `chat` without a chat template, one that drops the assistant's turn, or no end-of-turn token.
    """

    def __init__(self, tokenizer: Tokenizer, template: Template, *, system: str | None = None, turns: Turns = "all"):
        self._tokenizer = tokenizer
        self._template = template
        self._system = system
        self._turns = turns
        self._last_end = self._end = self._spelling_of_the_end()
        if template == "chat":
            self._end = self._end_of_turn()
            if header := missing_generation_prompt(tokenizer):
                raise ModelError(
                    f"the chat template of {tokenizer.source} has no generation prompt, so turns would be trained on "
                    f"without {header[:_SHOWN]!r}, which it writes ahead of them; add that under "
                    "`{% if add_generation_prompt %}`, or set prompt.template to r1-zero or raw"
                )

    def render(self, messages: Sequence[Message], where: str) -> Document:
        """The document of a conversation.

        Args:
            messages: with `role` and `content`; the last one is the assistant's. What the assistant said is context
                alone where a message has the key `UNTRAINED`.
            where: names the row in errors, e.g. "`rows.jsonl`, line 3".

        Raises:
            TaskError: the template refuses or rewrites the conversation, or a turn holds an end-of-turn token.
        """
        try:
            turns = self._chat(messages, where) if self._template == "chat" else [self._single(messages, where)]
        except ModelError as error:
            raise TaskError(f"{where}: {error}") from error
        ids: list[int] = []
        trained: list[bool] = []
        for prompt, context, completion in turns:
            before = self._continue(ids, prompt, context)
            after = self._after(before, prompt, completion)
            self._check_end(after, completion, where)
            trained += [False] * (len(before) - len(ids)) + [True] * len(after)
            ids = [*before, *after]
        trained[0] = False
        if not any(trained):
            raise TaskError(f"{where}: prompt and completion together are one token, so nothing can be trained on")
        return Document(np.array(ids, np.int32), np.array(trained, np.bool_))

    # --- text ----------------------------------------------------------------------------------------------------

    def _chat(self, messages: Sequence[Message], where: str) -> list[tuple[str, str, str]]:
        """(whole prompt, what it adds to what is there, completion) of every trained turn."""
        if self._system is not None and messages[0]["role"] != "system":
            messages = [{"role": "system", "content": self._system}, *messages]
        places = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
        wanted = places if self._turns == "all" else places[-1:]
        trained = [place for place in wanted if UNTRAINED not in messages[place]]
        if not trained:
            raise TaskError(
                f"{where}: the last turn is not to be trained on, by its {messages[places[-1]][UNTRAINED]}, and with "
                "turns=last there is no other. Set turns=all, or remove the row"
            )
        messages = [{"role": message["role"], "content": message["content"]} for message in messages]
        out = []
        built = ""
        for number, place in enumerate(trained, 1):
            prompt = self._tokenizer.render_chat(messages[:place], add_generation_prompt=True)
            if not prompt.startswith(built):
                raise TaskError(_rewritten(built, prompt, number - 1, where))
            completion = self._turn(messages[place]["content"], prompt, where) + self._end
            out.append((prompt, prompt[len(built) :], completion))
            built = prompt + completion
        return out

    def _single(self, messages: Sequence[Message], where: str) -> tuple[str, str, str]:
        roles = [message["role"] for message in messages]
        if roles != ["user", "assistant"]:
            raise TaskError(
                f"{where}: the template `{self._template}` takes one user turn and one assistant turn, and this "
                f"row has {', '.join(roles)}; leave such rows out, or set prompt.template=chat"
            )
        asked, answer = (message["content"] for message in messages)
        if self._template == "r1-zero":
            asked, answer = render_r1_zero(asked), spaced(answer)
        prompt = self._beginning() + asked
        return prompt, prompt, self._turn(answer, "", where) + self._end

    def _turn(self, content: str, prompt: str, where: str) -> str:
        """What of a turn follows the prompt: without a `<think>` that the prompt has opened, and without the end."""
        stripped = content.rstrip()
        if stripped.endswith(self._last_end):
            content = stripped.removesuffix(self._last_end)
        if not content.strip():
            raise TaskError(f"{where}: an assistant turn is empty; remove the row, or the turn")
        if closed_by_template(prompt):
            return _without_thought(content, where)
        opened = opened_by_template(prompt)
        if not opened:
            return content
        rest = content.lstrip()
        if not rest.startswith(THINK):
            raise TaskError(
                f"{where}: the model's chat template begins the assistant's turn with {THINK}, but this turn has no "
                f"thought: {content.strip()[:_SHOWN]!r}. Write {THINK}…</think> before the answer, or set "
                "prompt.template to r1-zero or raw"
            )
        return rest.removeprefix(THINK).removeprefix(opened.removeprefix(THINK))

    def _beginning(self) -> str:
        """The spelling of the token that the model expects texts to begin with, where it expects one."""
        if not self._tokenizer.adds_bos or self._tokenizer.bos_id is None:
            return ""
        return self._tokenizer.id_to_token(self._tokenizer.bos_id) or ""

    def _spelling_of_the_end(self) -> str:
        """The token that ends a completion where no template says so."""
        tokenizer = self._tokenizer
        ids = [tokenizer.eos_id] if tokenizer.eos_id is not None else sorted(tokenizer.end_of_turn_ids)
        spelling = tokenizer.id_to_token(ids[0]) if ids else None
        if spelling is None:
            raise ModelError(
                "the model's tokenizer has no end-of-sequence token, so a model trained on it would never stop; name "
                "one as `eos_token` in its tokenizer_config.json"
            )
        return spelling

    def _end_of_turn(self) -> str:
        """What the chat template writes after an assistant's turn, up to and including the token that ends it."""
        probe = [{"role": "user", "content": "?"}, {"role": "assistant", "content": _MARK}]
        text = self._tokenizer.render_chat(probe, add_generation_prompt=False)
        if text.count(_MARK) != 1:
            raise ModelError(
                "the model's chat template drops or repeats the assistant's turn, so its end cannot be told; correct "
                "`chat_template` in its tokenizer_config.json, or set prompt.template to r1-zero or raw"
            )
        rest = text.partition(_MARK)[2]
        ends = [i for i in self._tokenizer.encode(rest) if i in self._tokenizer.end_of_turn_ids]
        spelling = self._tokenizer.id_to_token(ends[0]) if ends else None
        if spelling is None or spelling not in rest:
            return self._last_end
        self._last_end = spelling
        return rest[: rest.index(spelling) + len(spelling)]

    # --- tokens --------------------------------------------------------------------------------------------------

    def _continue(self, ids: list[int], prompt: str, context: str) -> list[int]:
        """The prompt's ids, beginning with those that are there already."""
        whole = self._tokenizer.encode(prompt)
        return whole if whole[: len(ids)] == ids else [*ids, *self._tokenizer.encode(context)]

    def _after(self, before: list[int], prompt: str, completion: str) -> list[int]:
        """The completion's ids: those of the whole text behind the prompt's, unless a token spans the two."""
        whole = self._tokenizer.encode(prompt + completion)
        return whole[len(before) :] if whole[: len(before)] == before else self._tokenizer.encode(completion)

    def _check_end(self, ids: list[int], text: str, where: str) -> None:
        inside = [i for i in ids[:-1] if i in self._tokenizer.end_of_turn_ids]
        if inside:
            raise TaskError(
                f"{where}: an assistant turn holds the token {self._tokenizer.id_to_token(inside[0])!r}, which ends a "
                f"turn of this model: {text[:_SHOWN]!r}. Remove it from the text, or the row"
            )


def _without_thought(content: str, where: str) -> str:
    """A turn behind a thought that the prompt has closed: without an empty one of its own."""
    before, _, rest = content.lstrip().partition(THINK)
    thought, closed, after = rest.partition(END_THINK)
    answer = after.lstrip() if closed and not before and not thought.strip() else content
    if THINK in answer or not answer.strip():
        raise TaskError(
            f"{where}: the generation prompt of the model's chat template has already closed the thought, and this "
            f"turn brings one of its own: {content.strip()[:_SHOWN]!r}. Use a template that leaves the thought to the "
            "model, remove the thought from the row, or set prompt.template to r1-zero or raw"
        )
    return answer


def _rewritten(built: str, prompt: str, turn: int, where: str) -> str:
    """How the template changed an earlier turn."""
    at = next((i for i, (a, b) in enumerate(zip(built, prompt, strict=False)) if a != b), min(len(built), len(prompt)))
    dropped = THINK in built and prompt.count(THINK) < built.count(THINK)
    what = f"cuts {THINK} out of" if dropped else "rewrites"
    return (
        f"{where}: the model's chat template {what} the assistant's turn {turn} once another turn follows it: it was "
        f"to be trained on as {built[at : at + _SHOWN]!r}, and the next prompt would show "
        f"{prompt[at : at + _SHOWN]!r}. So no one text serves both turns. Set turns=last to train on the last turn "
        "behind the prompt that the template makes, give each turn a row of its own, or set prompt.template to r1-zero "
        "or raw"
    )
