"""From a problem to the prompt's token ids.

A prompt is rendered and tokenised once; its ids are what the engine continues and the trainer sees.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rethink.errors import ModelError, TaskError
from rethink.model.notes import note_once
from rethink.model.text.r1_template import render_r1_zero
from rethink.model.text.thoughts import END_THINK, THINK
from rethink.model.tokenizer.tokenizer import Tokenizer
from rethink.recipe.checks import check_prompt
from rethink.recipe.schema import PromptSection
from rethink.types import Problem, Prompt

_PLACE = "{question}"
_MARK = "\ue000turn\ue001"
_MARGIN = 64
"""Tokens by which a text may have more than bytes: marks at the beginning and the end, spaces put before pieces."""


class PromptRenderer:
    """Renders problems by a recipe's `prompt` section.

    Args:
        tokenizer: of the model.
        section: template, system message, instruction, examples, prefill and length limit.
        context: tokens that prompt and completion together may take.

    Raises:
        RecipeError: the section's values contradict each other.
        ModelError: `template: chat` and the model has no chat template, or it fails on these turns.
    """

    def __init__(self, tokenizer: Tokenizer, section: PromptSection, context: int):
        check_prompt(section)
        self._tokenizer = tokenizer
        self._section = section
        self._limit = context - 1 if section.max_tokens is None else min(section.max_tokens, context - 1)
        if section.template == "chat" and (header := missing_generation_prompt(tokenizer)):
            note_once(
                f"the chat template of {tokenizer.source} has no generation prompt: prompts end before "
                f"{header[:60]!r}, which it writes ahead of every turn of the assistant, so the model has to write "
                "that itself. Add it under `{% if add_generation_prompt %}`, or set prompt.template to r1-zero or raw"
            )
        # A template that fails does so now, not at the first problem.
        self._bytes_without = len(self._render_text("?")[0].encode("utf-8", "replace"))

    def render(self, problem: Problem) -> Prompt:
        """The prompt of a problem.

        Raises:
            TaskError: it is longer than `prompt.max_tokens`, or leaves no room for a completion.
            ModelError: the chat template fails on this question.
        """
        text, prefill = self._render_text(problem.question)
        ids = tuple(self._tokenizer.encode(text))
        if len(ids) > self._limit:
            allowed = f"prompt.max_tokens allows {self._limit}"
            if self._section.max_tokens is None or self._limit < self._section.max_tokens:
                allowed = f"the context of {self._limit + 1} tokens leaves at most {self._limit}"
            raise TaskError(
                f"the prompt of problem {problem.id!r} has {len(ids)} tokens where {allowed}; leave such problems "
                "out of the data, shorten prompt.examples or prompt.instruction, or raise the limit where the model "
                "has the context for it"
            )
        return Prompt(text=text, token_ids=ids, prefill=prefill)

    def render_turns(self, messages: Sequence[Mapping[str, str]]) -> Prompt:
        """The prompt of a conversation that ends with the user's turn; one turn alone is rendered as a problem is.

        Earlier turns come behind the examples. A system message takes the place of the section's own. The length is not
        looked at.

        Raises:
            ModelError: the roles are not those of a conversation, or the chat template fails on it.
        """
        system, turns = None, list(messages)
        if turns and turns[0]["role"] == "system":
            system = turns.pop(0)["content"]
        roles = [turn["role"] for turn in turns]
        if len(turns) % 2 == 0 or roles != [("user", "assistant")[i % 2] for i in range(len(turns))]:
            raise ModelError(
                f"the model is asked as it was trained, in turns of user and assistant that end with the user's, but "
                f"the roles are {', '.join(message['role'] for message in messages)[:200]}; change them, or use the "
                "model with --as-is"
            )
        if system is not None and self._section.template != "chat":
            raise ModelError(
                f"the model was trained with the template {self._section.template}, which has no system message; leave "
                "it out, or use the model with --as-is"
            )
        instruction = self._section.instruction
        earlier = [
            (instruction.replace(_PLACE, asked["content"]), said["content"])
            for asked, said in zip(turns[:-1:2], turns[1::2], strict=True)
        ]
        text, prefill = self._render_text(turns[-1]["content"], earlier, system)
        return Prompt(text=text, token_ids=tuple(self._tokenizer.encode(text)), prefill=prefill)

    def surely_fits(self, question: str) -> bool:
        """Whether a question is so short that its prompt need not be tokenised to know that it fits.

        A token covers at least one byte of the text, up to what a tokenizer adds at the edges of pieces.
        """
        places = self._section.instruction.count(_PLACE)
        return self._bytes_without + places * len(question.encode("utf-8", "replace")) + _MARGIN <= self._limit

    def _render_text(
        self, question: str, earlier: Sequence[tuple[str, str]] = (), system: str | None = None
    ) -> tuple[str, str]:
        """The prompt's text and the part of it that already belongs to the assistant's turn."""
        section = self._section
        asked = section.instruction.replace(_PLACE, question)
        examples = [(section.instruction.replace(_PLACE, e.question), e.completion) for e in section.examples]
        examples += earlier
        if section.template == "chat":
            return self._render_chat(asked, examples, section.system if system is None else system)
        if section.template == "r1-zero":
            text = render_r1_zero(asked, examples, section.prefill)
        else:
            text = "".join(f"{q}{completion}\n\n" for q, completion in examples) + asked + section.prefill
        return self._beginning() + text, section.prefill

    def _beginning(self) -> str:
        """The spelling of the token that the model expects texts to begin with, where it expects one."""
        if not self._tokenizer.adds_bos or self._tokenizer.bos_id is None:
            return ""
        return self._tokenizer.id_to_token(self._tokenizer.bos_id) or ""

    def _render_chat(self, asked: str, examples: Sequence[tuple[str, str]], system: str | None) -> tuple[str, str]:
        """Chat template with the examples' answers put in afterwards.

        Templates of reasoning models cut `<think>` out of earlier turns; rendering a mark in the answer's place and
        replacing it keeps the example as the recipe has it.
        """
        section = self._section
        messages = [{"role": "system", "content": system}] if system is not None else []
        marks = []
        for i, (question, _) in enumerate(examples):
            marks.append(f"\ue000example-{i}\ue001")
            messages += [{"role": "user", "content": question}, {"role": "assistant", "content": marks[i]}]
        messages.append({"role": "user", "content": asked})
        text = self._tokenizer.render_chat(messages, add_generation_prompt=True)
        for mark, (_, completion) in zip(marks, examples, strict=True):
            if text.count(mark) != 1:
                raise ModelError(
                    "the model's chat template drops or repeats the assistant's earlier turns, so prompt.examples "
                    "cannot be shown; set prompt.template to r1-zero or raw, or leave the examples out"
                )
            text = text.replace(mark, completion)
        if closed := closed_by_template(text):
            template = f"the generation prompt of the chat template of {self._tokenizer.source}"
            if THINK in section.prefill:
                raise ModelError(
                    f"{template} has already closed the thought ({closed!r}), so prompt.prefill {section.prefill!r} "
                    f"would open a second one; remove {THINK} from prompt.prefill, or use a template without that"
                )
            note_once(
                f"{template} ends behind a closed thought, so completions are answers without reasoning; for reasoning "
                "use a template that leaves the thought to the model"
            )
        opened = opened_by_template(text)
        if opened and section.prefill.lstrip().startswith(THINK):
            raise ModelError(
                f"the model's chat template already begins the assistant's turn with {THINK}, so prompt.prefill "
                f"{section.prefill!r} would write it twice; remove {THINK} from prompt.prefill"
            )
        return text + section.prefill, opened + section.prefill


def opened_by_template(text: str) -> str:
    """`<think>` and the white space after it, where the template's generation prompt ends so; else nothing."""
    return text[text.rindex(THINK) :] if text.rstrip().endswith(THINK) else ""


def closed_by_template(text: str) -> str:
    """The thought and the white space after it, where the template's generation prompt ends with a whole one."""
    begin = text.rfind(THINK) if text.rstrip().endswith(END_THINK) else -1
    return text[begin:] if begin >= 0 else ""


def missing_generation_prompt(tokenizer: Tokenizer) -> str:
    """What the chat template writes before an assistant's turn, where `add_generation_prompt` does not add it."""
    asked = [{"role": "user", "content": "?"}]
    try:
        prompt = tokenizer.render_chat(asked, add_generation_prompt=True)
        if prompt != tokenizer.render_chat(asked, add_generation_prompt=False):
            return ""
        whole = tokenizer.render_chat([*asked, {"role": "assistant", "content": _MARK}], add_generation_prompt=False)
    except ModelError:  # it refuses this conversation; whether it takes the real ones is seen there
        return ""
    before, found, _ = whole.partition(_MARK)
    return before.removeprefix(prompt).strip() if found and before.startswith(prompt) else ""
