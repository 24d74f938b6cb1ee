"""How a loaded model is asked: as it was trained where its run says how, unless the user wants it as it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rethink.errors import UsageError
from rethink.model.loading import Checkpoint
from rethink.model.notes import note_once
from rethink.model.text.prompt import PromptRenderer, opened_by_template
from rethink.model.tokenizer.tokenizer import Tokenizer
from rethink.store.as_trained import AsTrained, read_as_trained
from rethink.types import Prompt


def trained_of(checkpoint: Checkpoint, *, as_is: bool = False) -> AsTrained | None:
    """What a model's run says of it, where it says how it is asked; None: the model is used as it is.

    A line says which of the two it is, where there is a choice. A record that cannot be used costs only itself.
    """
    if as_is:
        return None
    try:
        record = read_as_trained(checkpoint.folder)
    except UsageError as error:
        note_once(f"{error} The model is used as it is.")
        return None
    if record is None or record.prompt is None:
        return None
    note_once(f"{checkpoint.source} is asked as it was trained ({record.said()}); --as-is turns this off")
    return record


def renderer_of(source: str, tokenizer: Tokenizer, record: AsTrained | None, context: int) -> PromptRenderer | None:
    """What renders questions for a model by its record; None: there is no record.

    Args:
        source: the model, as the user named it.
        tokenizer: of the model.
        record: how it was trained.
        context: tokens that prompt and completion together may take.

    Raises:
        UsageError: the record does not fit the model.
    """
    if record is None or record.prompt is None:
        return None
    try:
        return PromptRenderer(tokenizer, record.prompt, context)
    except UsageError as error:
        raise UsageError(f"{source} cannot be asked as it was trained: {error}. Or give --as-is") from error


def render_messages(
    tokenizer: Tokenizer, messages: Sequence[Mapping[str, str]], renderer: PromptRenderer | None
) -> Prompt:
    """The prompt of a conversation: by `renderer`, or where there is none by the model's chat template.

    Raises:
        ModelError: the conversation cannot be rendered.
    """
    if renderer is not None:
        return renderer.render_turns(messages)
    text = tokenizer.render_chat(messages, add_generation_prompt=True)
    return Prompt(text, tuple(tokenizer.encode(text)), opened_by_template(text))
