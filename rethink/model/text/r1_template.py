"""The conversation template of DeepSeek-R1-Zero."""

from __future__ import annotations

from collections.abc import Sequence

R1_ZERO_TEMPLATE = (
    "A conversation between User and Assistant. The user asks a question, and the Assistant solves it. "
    "The assistant first thinks about the reasoning process in the mind and then provides the user with the answer. "
    "The reasoning process and answer are enclosed within <think> </think> and <answer> </answer> tags, "
    "respectively, i.e., <think> reasoning process here </think> <answer> answer here </answer>. "
    "User: prompt. Assistant:"
)
"""Word for word from table 1 of arXiv 2501.12948 (version 1); the word `prompt` stands for the question."""
_PREAMBLE, _TURN = R1_ZERO_TEMPLATE[: R1_ZERO_TEMPLATE.index("User: prompt")], "User: {question}. Assistant:"


def render_r1_zero(question: str, examples: Sequence[tuple[str, str]] = (), prefill: str = "") -> str:
    """The template around a question.

    The full stop after the question is the template's, so a question that ends in `?` is followed by `?.`, as in the
    paper.

    Args:
        question: takes the place of `prompt`.
        examples: pairs of question and whole completion, put before it as earlier turns, a line each.
        prefill: what the assistant's turn begins with.
    """
    turns = [f"{_turn(asked)}{spaced(completion)}\n" for asked, completion in examples]
    return _PREAMBLE + "".join(turns) + _turn(question) + spaced(prefill)


def _turn(question: str) -> str:
    # Not str.format: a question may hold braces.
    return _TURN.replace("{question}", question)


def spaced(text: str) -> str:
    """One space between `Assistant:` and what follows, unless that brings its own."""
    return f" {text}" if text and not text[0].isspace() else text
