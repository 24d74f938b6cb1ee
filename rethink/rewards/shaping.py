"""Rewards that shape length and repetition: pure functions of numbers, and the parts that use them.

Lengths are in tokens of the completion. Sources: the soft overlong punishment of DAPO (arXiv 2503.14476, equation 13);
the cosine length reward and the n-gram repetition penalty of Yeo et al. (arXiv 2502.03373, sections 4.2 and 4.3), with
the names of their options as TRL and open-r1 have them.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field

from rethink.analysis.repetition import repetition_penalty, words
from rethink.rewards.builtin import PartContext
from rethink.rewards.judges import threaded
from rethink.rewards.math_reward import judge_of
from rethink.rewards.outcome import PartFunction, placed
from rethink.types import Completion, Problem, Prompt, is_right

Positive = Annotated[int, Field(gt=0)]


def soft_overlong(length: int, max_completion_len: int, soft_punish_cache: int) -> float:
    """0 up to `max_completion_len - soft_punish_cache`, then falling linearly to -1 at `max_completion_len`."""
    begins = max_completion_len - soft_punish_cache
    if length <= begins:
        return 0.0
    return -1.0 if length > max_completion_len else (begins - length) / soft_punish_cache


def dapo_overlong(
    length: int, max_response_length: int, overlong_buffer_length: int, overlong_buffer_penalty: float
) -> float:
    """The same slope without a floor: what is added to a reward, `penalty` a buffer's length beyond its beginning."""
    beyond = length - (max_response_length - overlong_buffer_length)
    return min(0.0, -beyond / overlong_buffer_length * overlong_buffer_penalty)


def cosine_length(
    correct: bool,
    length: int,
    max_len: int,
    min_value_wrong: float = -1.0,
    max_value_wrong: float = -0.5,
    min_value_correct: float = 0.5,
    max_value_correct: float = 1.0,
) -> float:
    """Right answers earn less the longer they are, wrong ones lose less: half a cosine from length 0 to `max_len`."""
    first, last = (max_value_correct, min_value_correct) if correct else (min_value_wrong, max_value_wrong)
    progress = min(max(length, 0) / max_len, 1.0)
    return last + 0.5 * (first - last) * (1.0 + math.cos(progress * math.pi))


# --- parts -----------------------------------------------------------------------------------------------------------


def overlong_part(
    context: PartContext,
    *,
    max_completion_len: Positive,
    soft_punish_cache: Positive,
    penalty: Annotated[float, Field(gt=0)] = 1.0,
    floor: bool = True,
) -> PartFunction:
    """The part `overlong`: 0 down to `-penalty` over the last `soft_punish_cache` tokens before `max_completion_len`.

    Without `floor` it continues to fall beyond.
    """
    if soft_punish_cache > max_completion_len:
        raise ValueError(
            f"soft_punish_cache {soft_punish_cache} is above max_completion_len {max_completion_len}: every completion "
            "would be punished; use at most the length"
        )

    def score(problem: Problem, prompt: Prompt, completion: Completion) -> float:
        length = len(completion.token_ids)
        if floor:
            return penalty * soft_overlong(length, max_completion_len, soft_punish_cache)
        return dapo_overlong(length, max_completion_len, soft_punish_cache, penalty)

    return score


def repetition_part(
    context: PartContext,
    *,
    ngram_size: Positive = 3,
    max_penalty: Annotated[float, Field(le=0)] = -1.0,
    unit: Literal["words", "tokens"] = "words",
    language: str | None = None,
) -> PartFunction:
    """The part `repetition`: 0 down to `max_penalty`.

    `unit`: words parted by white space, without regard to case
    (`language: zh`: as a segmenter parts them); or tokens.
    """

    def score(problem: Problem, prompt: Prompt, completion: Completion) -> float:
        if unit == "tokens":
            return repetition_penalty(completion.token_ids.tolist(), ngram_size, max_penalty)
        return repetition_penalty(words(completion.text, language), ngram_size, max_penalty)

    return score


def cosine_part(
    context: PartContext,
    *,
    max_len: Positive = 1000,
    min_value_wrong: float = -1.0,
    max_value_wrong: float = -0.5,
    min_value_correct: float = 0.5,
    max_value_correct: float = 1.0,
) -> PartFunction:
    """The part `cosine`: by the answer's correctness (as `accuracy` sees it) and the completion's length."""
    judge = judge_of(context)

    def score(problem: Problem, prompt: Prompt, completion: Completion) -> float | None:
        verdict = judge(problem, prompt, completion)
        if verdict is None:
            return None
        length = len(completion.token_ids)
        values = (min_value_wrong, max_value_wrong, min_value_correct, max_value_correct)
        return cosine_length(is_right(verdict), length, max_len, *values)

    return placed(score, places=threaded(context.judges or {}))
