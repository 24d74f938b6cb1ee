"""Held-out problems one by one, with what every model of a pipeline answered. Plain HTML that folds, no script."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rethink.observe.report.markup import details, element, prose, text

SHOWN = 60
"""Problems on the page; all of them are in the stages' folders."""
LIMIT = 1500
"""Characters of a completion."""


def samples_section(sources: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """The first problems, each with the first completion of every model."""
    by_label = {label: _first_samples(rows) for label, rows in sources.items()}
    problems: dict[str, Mapping[str, Any]] = {}
    for rows in by_label.values():
        for problem, row in rows.items():
            problems.setdefault(problem, row)
    if not problems:
        return f'<p class="empty">{prose("No evaluation is done yet.")}</p>'
    chosen = _spread(problems)
    words = (
        f"{len(chosen)} of {len(problems)} problems, the tasks by turns; the first completion of each model. All are "
        "in the folders of the stages, as Parquet."
    )
    return f"<p>{text(words)}</p>" + "".join(_problem(problem, problems[problem], by_label) for problem in chosen)


def _first_samples(rows: Sequence[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    found: dict[str, Mapping[str, Any]] = {}
    for row in rows:
        found.setdefault(str(row["problem_id"]), row)
    return found


def _spread(problems: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The first problems of each task by turns."""
    tasks: dict[str, list[str]] = {}
    for problem, row in problems.items():
        tasks.setdefault(str(row["task"]), []).append(problem)
    longest = max(map(len, tasks.values()))
    turns = [names[i] for i in range(longest) for names in tasks.values() if i < len(names)]
    return turns[:SHOWN]


def _problem(problem: str, row: Mapping[str, Any], by_label: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> str:
    chips, answers = [], []
    for label, rows in by_label.items():
        answer = rows.get(problem)
        if answer is None:
            continue
        right = answer["right"]
        word = "not judged" if right is None else "right" if right else "wrong"
        tone = "" if right is None else ' class="good"' if right else ' class="bad"'
        chips.append(f"<li{tone}>{text(label)}: {word}</li>")
        completion = str(answer["text"])
        cut = "…" if len(completion) > LIMIT else ""
        facts = f"{word}, format {_number(answer['format'])}, readability {_number(answer.get('readability'))}, "
        facts += f"{answer['tokens']} tokens"
        answers.append(
            f"<div><h4>{text(label)} <small>{text(facts)}</small></h4>"
            + element("pre", text(completion[:LIMIT] + cut), tabindex="0")
            + "</div>"
        )
    gold = row.get("answer")
    head = (
        f"<p><b>{text(row['task'])}</b> {text(str(row['question'])[:LIMIT])}</p>"
        f"<p>Gold answer: <code>{text('known to the checker alone' if gold is None else gold)}</code></p>"
    )
    body = details("Answers", f'<div class="pair">{"".join(answers)}</div>')
    return f'<article class="card">{head}<ul class="chips">{"".join(chips)}</ul>{body}</article>'


def _number(value: Any) -> str:
    return "none" if value is None else f"{float(value):.2f}"
