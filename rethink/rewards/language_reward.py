"""The reward `language`: language consistency of the thought (DeepSeek-R1, arXiv 2501.12948, equation 7)."""

from __future__ import annotations

from typing import Literal

from rethink.analysis.language import language_of, language_share
from rethink.model.text.thoughts import thought_of
from rethink.rewards.builtin import PartContext
from rethink.rewards.outcome import PartFunction
from rethink.types import Completion, Problem, Prompt


def language_part(
    context: PartContext, *, language: Literal["auto", "en", "es", "fr", "de", "ru", "ar", "zh", "ja"] = "auto"
) -> PartFunction:
    """The part `language`: the share of the thought's words in a language; abstains where the thought has no words.

    `auto` takes the language that the problem's `language` names (`zh`, `zh-CN`, `Chinese`), and English where it names
    none of ours.
    """

    def score(problem: Problem, prompt: Prompt, completion: Completion) -> float | None:
        target = language_of(problem) if language == "auto" else language
        return language_share(thought_of(prompt.prefill + completion.text), target).share

    return score
