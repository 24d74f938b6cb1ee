"""The named filters: each drops samples for one reason. The first that drops a sample gives its reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rethink.analysis.readability import has_code, longest_paragraph, repetition_share, stray_tags
from rethink.kinds.samples.recipe import FilterSection
from rethink.kinds.samples.records import ENDPOINT, KEPT, Sample
from rethink.types import is_right

UNJUDGED = "unjudged"
"""The gold cannot be read by rules: a judge may still decide."""


@dataclass(frozen=True, slots=True)
class Filter:
    """One reason."""

    reason: str
    drops: Callable[[Sample, FilterSection], bool]
    advice: str
    """What to change where it takes too many."""


def _score(sample: Sample, part: str) -> float | None:
    return sample.rewards.get(part)


def _checker_failed(sample: Sample, filters: FilterSection) -> bool:
    part = filters.correct
    return part is not None and part in sample.failures


def _unjudged(sample: Sample, filters: FilterSection) -> bool:
    return filters.correct is not None and _score(sample, filters.correct) is None


def _incorrect(sample: Sample, filters: FilterSection) -> bool:
    score = None if filters.correct is None else _score(sample, filters.correct)
    return score is not None and not is_right(score)


def _format(sample: Sample, filters: FilterSection) -> bool:
    return filters.format is not None and not is_right(_score(sample, filters.format))


def _language(sample: Sample, filters: FilterSection) -> bool:
    share = _score(sample, "language")
    return filters.language is not None and share is not None and share < filters.language


NO_REPLY = "no-reply"
FILTERS: tuple[Filter, ...] = (
    Filter(
        NO_REPLY,
        lambda sample, filters: ENDPOINT in sample.failures,
        "read `failures` in samples.jsonl: the endpoint refused these requests, or sent what is no completion",
    ),
    Filter(
        "truncated",
        lambda sample, filters: filters.truncated and sample.finish_reason == "length",
        "raise `sampling.max_new_tokens`",
    ),
    Filter(
        "checker-failed", _checker_failed, "read `failures` in samples.jsonl and mend the checker, or raise "
        "`reward.seconds`"
    ),
    Filter(
        "incorrect",
        _incorrect,
        "draw more (`sampling.per_problem`), take easier problems (`tasks.N.params`), show an example of the form "
        "(`prompt.examples`), or train the model further",
    ),
    Filter("format", _format, "show the form in `prompt.examples`, or accept any with `filters.format=null`"),
    Filter(
        "stray-tags",
        lambda sample, filters: filters.tags and stray_tags(sample.completion) > 0,
        "end samples at the mark that is left over (`sampling.stop_strings`), or allow them with `filters.tags=false`",
    ),
    Filter(
        "stray-code",
        lambda sample, filters: filters.code and has_code(sample.completion),
        "allow code with `filters.code=false`, where answers are programs",
    ),
    Filter("language-mix", _language, "lower `filters.language`, or train with the reward part `language` first"),
    Filter(
        "repetition",
        lambda sample, filters: filters.repetition is not None
        and repetition_share(sample.completion) > filters.repetition,
        "raise `filters.repetition`, or sample at a higher temperature",
    ),
    Filter(
        "too-long",
        lambda sample, filters: filters.max_tokens is not None and sample.tokens > filters.max_tokens,
        "raise `filters.max_tokens`",
    ),
    Filter(
        "paragraph-too-long",
        lambda sample, filters: filters.paragraph_words is not None
        and longest_paragraph(sample.completion) > filters.paragraph_words,
        "raise `filters.paragraph_words`, or have a teacher rewrite (`teacher`) with this filter off",
    ),
    # Last, so that only what is good otherwise is put to a judge.
    Filter(UNJUDGED, _unjudged, "name where the gold answers are (`tasks.N.answer_key`), or give a `judge`"),
)  # fmt: skip
"""In the order in which they are asked."""

ADVICE: dict[str, str] = {each.reason: each.advice for each in FILTERS} | {
    "judged-wrong": "lower `judge.least`",
    "duplicate": "sample at a higher temperature, or raise `filters.duplicate`",
    "not-chosen": "raise `choose.keep`",
    "over-balance": "raise `balance`, or draw more of the smaller tasks (`tasks.N.weight`)",
    "rewrite-failed": "read `failures` in samples.jsonl; raise `teacher.max_tokens` where replies were cut",
    "empty": "look at `general.prompt`: the model says nothing to it",
}
"""What to change where a reason takes too many."""
REWRITTEN = "rewrite-"
"""Begins the reason of a sample that was good before its rewriting."""


def first_reason(sample: Sample, filters: FilterSection) -> str:
    """The reason of the first filter that drops the sample; `kept` where none does."""
    return next((each.reason for each in FILTERS if each.drops(sample, filters)), KEPT)


def advice_for(reason: str) -> str:
    """What to change where a reason takes too many samples."""
    if reason in ADVICE:
        return ADVICE[reason]
    inner = ADVICE.get(reason.removeprefix(REWRITTEN), "")
    return f"change `teacher.instruction`, or take another teacher{f' (or {inner})' if inner else ''}"


def too_few(samples: Sequence[Sample], kept: int, least: int, out: str) -> str:
    """Why there are fewer samples than wanted, and what to change: one paragraph."""
    reasons = Counter(sample.reason for sample in samples if not sample.kept)
    listed = ", ".join(f"{reason} {count}" for reason, count in reasons.most_common()) or "none was dropped"
    words = f"{kept} of {len(samples)} samples were kept, and the recipe wants at least {least} (`least`)."
    if not reasons:
        return f"{words} All were kept: raise `problems` or `sampling.per_problem`, or lower `least`."
    worst = reasons.most_common(1)[0][0]
    return (
        f"{words} Dropped: {listed}. Most went to `{worst}`: {advice_for(worst)}. All samples with their reasons "
        f"are in `{out}/samples.jsonl`; where only filters, choice or balance change, nothing need be sampled "
        f"anew: give source={out}/samples.jsonl and another --out."
    )
