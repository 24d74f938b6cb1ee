"""The answer in a completion, by the rule that the recipe names."""

from __future__ import annotations

from typing import Literal

from rethink.model.chat import END_THINK, parse_completion
from rethink.tasks.answers import last_boxed, last_number

AnswerRule = Literal["answer-tag", "boxed", "last-number", "text"]


def extract_answer(text: str, prefill: str, rule: AnswerRule) -> str | None:
    r"""What a completion gives as its answer; None where it gives none. Linear in the text.

    `answer-tag`: inside the last `<answer>` after the thought; `boxed`: inside the last `\boxed{}`, `last-number`: the
    last number, `text`: everything; the last three look after `</think>` only, where there is one.

    Args:
        text: the completion.
        prefill: the beginning of the assistant's turn that was part of the prompt.
        rule: where to look.
    """
    if rule == "answer-tag":
        return parse_completion(text, prefill).answer
    turn = prefill + text
    spoken = turn.rpartition(END_THINK)[2]
    if rule == "boxed":
        return last_boxed(spoken)
    if rule == "last-number":
        return last_number(spoken)
    return spoken.strip() or None
