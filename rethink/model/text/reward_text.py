"""What a reward model reads: the conversation so far and a response to it, as token ids.

Templates:

- `chat`: the tokenizer's own chat template;
- `plain`: "Human: … Assistant: …" in paragraphs, for tokenizers without one (the form of Anthropic's hh-rlhf).

The response ends with the tokenizer's end-of-sequence token, where it has one: the score is read there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from rethink.model.text.thoughts import ANSWER, END_ANSWER, after_thought
from rethink.model.tokenizer.tokenizer import Tokenizer

Message = Mapping[str, str]
Template = Literal["chat", "plain"]
On = Literal["summary", "response"]

_SPEAKERS = {"user": "Human", "assistant": "Assistant", "system": "System"}


def scored_text(response: str, on: On) -> str | None:
    """The part of a response that is scored; None where the response has none.

    DeepSeek-R1 (arXiv 2501.12948) scores helpfulness on the summary alone, so as not to interfere with the reasoning,
    and harmlessness on the whole response. The summary is what follows the last `</think>`, without white space around
    it; where that is one pair of `<answer>` tags, what they enclose. A response without a thought is all summary; one
    whose thought does not end has none.
    """
    if on == "response":
        return response
    summary = (after_thought(response) or "").strip()
    if summary.startswith(ANSWER) and summary.endswith(END_ANSWER) and summary.count(ANSWER) == 1:
        summary = summary[len(ANSWER) : -len(END_ANSWER)].strip()
    return summary or None


def resolve_template(template: Literal["auto", "chat", "plain"], tokenizer: Tokenizer) -> Template:
    """`auto`: `chat` where the tokenizer has a chat template, else `plain`."""
    if template != "auto":
        return template
    return "plain" if tokenizer.chat_template is None else "chat"


def encode_prompt(tokenizer: Tokenizer, messages: Sequence[Message], template: Template) -> list[int]:
    """Token ids of the conversation up to where the response begins; never empty.

    Raises:
        ModelError: the chat template is missing or refuses the messages.
    """
    if template == "chat":
        text = tokenizer.render_chat(messages, add_generation_prompt=True)
    else:
        turns = [f"{_SPEAKERS.get(m['role'], m['role'].title())}: {m['content']}" for m in messages]
        text = "\n\n".join([*turns, "Assistant:"])
    ids = tokenizer.encode(text)
    if template == "plain" and tokenizer.adds_bos and tokenizer.bos_id is not None:
        ids = [tokenizer.bos_id, *ids]
    return ids


def encode_response(tokenizer: Tokenizer, text: str, template: Template) -> list[int]:
    """Token ids of a response with the token that ends it."""
    ids = tokenizer.encode(text if template == "chat" else f" {text}")
    end = tokenizer.eos_id if tokenizer.eos_id is not None else min(tokenizer.end_of_turn_ids, default=None)
    return ids if end is None else [*ids, end]
