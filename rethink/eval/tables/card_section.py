"""The section of a model card that says how a model was evaluated."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def card_section(model: str, details: Mapping[str, Mapping[str, Any]]) -> str:
    """Markdown: a table with intervals, and how each number came about.

    Args:
        model: as the user named it.
        details: as `details.json` has them.
    """
    lines = [
        "## Evaluation",
        "",
        f"Measured with `rethink eval` on {model}. pass@1 is the mean over k samples a problem, with its 95 % "
        "interval; cons@k the share of problems whose majority answer is right.",
        "",
        "| benchmark | metric | pass@1 | 95 % interval | cons@k | problems | k | truncated | mean tokens |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, of in details.items():
        low, high = of["pass@1_ci"]
        cons = "–" if of["cons@k"] is None else percent(of["cons@k"])
        lines.append(
            f"| {name} | {of['metric']} | {percent(of['pass@1'])} | {percent(low)} – {percent(high)} | {cons} | "
            f"{of['n']} | {of['k']} | {percent(of['truncated'])} | {of['length_mean']:.0f} |"
        )
    lines += ["", "How:", ""]
    lines += [f"- {name}: {how(of)}" for name, of in details.items()]
    return "\n".join(lines) + "\n"


def how(of: Mapping[str, Any]) -> str:
    """One line on a benchmark's protocol: data, sampling and what limited it, prompt, grader."""
    limits = {
        "paper": "the paper's limit",
        "run": "the run's limit",
        "context": "all that the model's context leaves",
        "asked": "as asked",
    }
    note = f"; {of['note']}" if of["note"] else ""
    sampling = "greedy" if of["temperature"] == 0 else f"temperature {of['temperature']:g}, top-p {of['top_p']:g}"
    return (
        f"{of['data']}, {of['n']} problems, k = {of['k']}, {sampling}, at most {of['max_new_tokens']:,} tokens "
        f"({limits[of['limited_by']]}), prompting {of['prompting']}, grader {of['grader']}{note}"
    )


def percent(share: float) -> str:
    """A share as a percentage with one decimal, as the paper prints them."""
    return f"{100 * share:.1f}"
