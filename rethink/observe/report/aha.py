"""The part of a report about self-correction: how often it occurs, its outcomes, and corrected passages."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from rethink.analysis.self_correction import Counts, count
from rethink.observe.report.markup import details, element, table, text

RULE = (
    "A self-correction attempt is two statements of the same thing with a marker of reflection between them: two "
    "numbers stated as the answer, compared with the gold answer, or the same sum twice, checked by arithmetic. "
    "Corrected: wrong before and right after. Corrections in other words are not found, so these counts are lower "
    "bounds."
)


def aha(groups: Mapping[str, Iterable[tuple[str, str | None]]], first: str) -> str:
    """The table and the passages.

    Args:
        groups: completions with their gold answers, by what the table calls them.
        first: heading of the first column.
    """
    counted = {name: count(rows) for name, rows in groups.items()}
    headings = [first, "completions", "with a marker", "checked", "corrected", "spoiled", "still right", "still wrong"]
    rows = [[text(name), *map(_cell, _numbers(counts))] for name, counts in counted.items()]
    parts = [element("p", text(RULE), class_="note"), table(headings, rows)]
    passages = [(name, passage) for name, counts in counted.items() for passage in counts.examples]
    unique = {passage: name for name, passage in reversed(passages)}  # a group may hold another's completions
    if unique:
        shown = "".join(
            f"<p>{text(name)}</p>" + element("pre", text(passage), tabindex="0")
            for passage, name in reversed(unique.items())
        )
        parts.append(details("Corrected passages", shown))
    else:
        parts.append(element("p", text(_none(counted)), class_="empty"))
    return "".join(parts)


def _numbers(counts: Counts) -> list[int]:
    outcomes = [counts.outcomes[name] for name in ("corrected", "spoiled", "still right", "still wrong")]
    return [counts.completions, counts.marked, counts.checked, *outcomes]


def _cell(number: int) -> str:
    return f"{number:,}"


def _none(counted: Mapping[str, Counts]) -> str:
    if not any(counts.marked for counts in counted.values()):
        return "No completion contains a marker of reflection, so there is no aha moment to find."
    if not any(counts.checked for counts in counted.values()):
        return "There are markers, but no statement is repeated after one, so nothing can be checked."
    return "Nothing was corrected."
