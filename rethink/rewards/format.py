"""Format rewards: the paper's (DeepSeek-R1, arXiv 2501.12948, 2.2.2)."""

from __future__ import annotations

from rethink.model.chat import parse_completion
from rethink.rewards.builtin import PartContext
from rethink.rewards.outcome import PartFunction
from rethink.types import Completion, Problem, Prompt


def format_part(context: PartContext) -> PartFunction:
    """The part `format`."""
    return format_reward


def format_reward(problem: Problem, prompt: Prompt, completion: Completion) -> float:
    """1 for one `<think>…</think>` and then one `<answer>…</answer>`, each tag once, with only white space around them.

    A completion that was cut at the token limit cannot be well formed unless it had just ended.
    """
    return float(parse_completion(completion.text, prompt.prefill).well_formed)
