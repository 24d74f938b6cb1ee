"""Why a run learns nothing, where its metrics show it: for the live view, the log, the end of a run and the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any, NamedTuple

from rethink.observe.number_text import number, percent

RECENT = 20
"""Steps that are looked at: the last ones."""
LEAST = 5
"""Steps before a running run is judged; one that has ended is judged by what there is."""
HARDLY, NEARLY = 0.05, 0.95
"""Shares up to and from which a share counts as none and as all."""


class Diagnosis(NamedTuple):
    """What is the matter."""

    kind: str
    """`failing`, `abstaining`, `right`, `truncated`, `format`, `wrong`, `alike` or `unrewarded`."""
    text: str
    """What happened and what to try."""


def diagnosis(rows: Sequence[Mapping[str, Any]], least: int = 1) -> Diagnosis | None:
    """What keeps a GRPO run from learning, from its rows of metrics; None where nothing does, or too few are there.

    Looked at are the last `RECENT` steps. In this order: rewards that fail or abstain; steps in which no group has a
    signal (all its completions earn the same, so its advantages are 0); an accuracy of 0 although there is signal.
    """
    steps = [row for row in rows if number(row, "rollout/no_signal") is not None][-RECENT:]
    if len(steps) < max(least, 1):
        return None
    said = f"the last {len(steps)} steps" if len(steps) > 1 else "the only step"
    if found := _rewards(steps, said):
        return found
    silent = [row for row in steps if row["rollout/no_signal"] > NEARLY]
    if 2 * len(silent) >= len(steps):
        kind, what, remedy = _silence(silent)
        times = f"In {len(silent)} of {said}" if len(steps) > 1 else f"In {said}"
        return Diagnosis(kind, f"{times} no group had a signal, so nothing was learnt: {what}. {remedy}")
    accuracy = _shares(steps, "rollout/accuracy")
    if accuracy and max(accuracy) == 0:
        return Diagnosis(
            "unrewarded",
            f"No completion was right in {said}: what was learnt earns the other rewards alone. Take easier problems, "
            "show a solved one (prompt.examples), or raise rollout.max_new_tokens where completions are cut off.",
        )
    return None


def _rewards(steps: Sequence[Mapping[str, Any]], said: str) -> Diagnosis | None:
    failed, abstained = (_mean(steps, f"reward/{name}") or 0.0 for name in ("failed", "abstained"))
    # Shares are of the outcomes of all parts: where one part is silent, others may speak.
    most = 0.5 if _shares(steps, "rollout/accuracy") else HARDLY
    if failed >= max(most, abstained):
        causes: dict[str, float] = {}
        for row in steps:
            for name in row:
                if name.startswith("failure/"):
                    cause = name.removeprefix("failure/").replace("_", " ")
                    causes[cause] = causes.get(cause, 0.0) + (number(row, name) or 0.0)
        by = f", most by {max(causes, key=lambda cause: causes[cause])}" if causes else ""
        return Diagnosis(
            "failing",
            f"In {said} {percent(failed)} of the rewards failed{by}, and a failure teaches nothing. Read one in the "
            "column reward_parts of the rollouts and fix the reward; reward.seconds and reward.memory_gb are its "
            "limits.",
        )
    if abstained >= most:
        return Diagnosis(
            "abstaining",
            f"In {said} {percent(abstained)} of the rewards abstained: what they compare with cannot be read. "
            "Look at the gold answers, and at tasks.answer_format and tasks.checker.",
        )
    return None


def _silence(steps: Sequence[Mapping[str, Any]]) -> tuple[str, str, str]:
    """(kind, what the completions of steps without signal were like, what to try)."""
    accuracy, form, cut = (_mean(steps, f"rollout/{name}") for name in ("accuracy", "format", "truncated"))
    if accuracy is not None and accuracy >= NEARLY:
        remedy = "Take harder problems, or a curriculum: there is nothing left to learn from these."
        return "right", "nearly every completion was right", remedy
    if cut is not None and cut >= NEARLY:
        remedy = "Raise rollout.max_new_tokens, or show a short solved problem (prompt.examples)."
        return "truncated", "nearly every completion was cut off by the token limit", remedy
    if form is not None and form <= HARDLY:
        remedy = "Show the format in a solved problem (prompt.examples), or begin the turn with it (prompt.prefill)."
        return "format", "hardly any completion kept the format", remedy
    if accuracy is not None and accuracy <= HARDLY:
        remedy = (
            "Take easier problems, show a solved one (prompt.examples), or sample more of each (rollout.group_size)."
        )
        return "wrong", "hardly any completion was right", remedy
    remedy = "Raise rollout.temperature or rollout.group_size, or take problems of another difficulty."
    return "alike", "all completions of a group earned the same", remedy


def _shares(steps: Sequence[Mapping[str, Any]], name: str) -> list[float]:
    return [value for row in steps if (value := number(row, name)) is not None]


def _mean(steps: Sequence[Mapping[str, Any]], name: str) -> float | None:
    values = _shares(steps, name)
    return fmean(values) if values else None
