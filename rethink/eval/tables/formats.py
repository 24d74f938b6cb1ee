"""A table with two-level headers and blocks of rows, as Markdown, LaTeX, CSV and HTML."""

from __future__ import annotations

import csv
import html
import io
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from rethink.store.atomic import storage_errors, write_text


@dataclass(frozen=True, slots=True)
class Column:
    """A column's header; neighbours with the same `over` share it."""

    over: str
    name: str

    @property
    def flat(self) -> str:
        """Both levels in one line."""
        return f"{self.over} {self.name}".strip()


@dataclass(frozen=True, slots=True)
class Table:
    """Cells are text already."""

    name: str
    """File name without its end."""
    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[str, list[str]], ...]
    """(block, cells); rows of the same block are adjacent."""
    notes: tuple[str, ...]

    def blocks(self) -> list[tuple[str, list[list[str]]]]:
        """Rows by block, in order."""
        return [(block, [cells for _, cells in rows]) for block, rows in groupby(self.rows, key=lambda row: row[0])]


def write_table(folder: Path, table: Table) -> list[Path]:
    """Write the four files and return them. Raises `StorageFailure`."""
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    made = {"md": markdown(table), "tex": latex(table), "csv": comma_separated(table), "html": page(table)}
    paths = []
    for end, text in made.items():
        path = folder / f"{table.name}.{end}"
        write_text(path, text)
        paths.append(path)
    return paths


def markdown(table: Table) -> str:
    """A pipe table; if there is more than one block, the first column names it."""
    header = ["", *(column.flat for column in table.columns)]
    body = [[block if i == 0 else "", *cells] for block, rows in table.blocks() for i, cells in enumerate(rows)]
    lines = [f"### {table.title}", "", _pipe(header), _pipe(["---"] * len(header)), *(_pipe(row) for row in body)]
    return "\n".join([*lines, "", *(f"- {note}" for note in table.notes)]) + "\n"


def latex(table: Table) -> str:
    """A `tabular` with booktabs rules, blocks by `\\multirow`."""
    spans = _spans(table.columns)
    over = " & ".join(["", *(_latex_span(text, width) for text, width in spans)])
    names = " & ".join(["", *(_tex(column.name) for column in table.columns)])
    body: list[str] = []
    for block, rows in table.blocks():
        if body:
            body.append("\\midrule")
        for i, cells in enumerate(rows):
            first = f"\\multirow{{{len(rows)}}}{{*}}{{{_tex(block)}}}" if i == 0 else ""
            body.append(" & ".join([first, *map(_tex, cells)]) + " \\\\")
    lines = [
        "% needs the packages booktabs and multirow",
        "\\begin{table}",
        "\\centering",
        f"\\begin{{tabular}}{{ll{'c' * (len(table.columns) - 1)}}}",
        "\\toprule",
        *([over + " \\\\"] if any(text for text, _ in spans) else []),
        names + " \\\\",
        "\\midrule",
        *body,
        "\\bottomrule",
        "\\end{tabular}",
        f"\\caption{{{_tex(table.title)}. {' '.join(map(_tex, table.notes))}}}",
        "\\end{table}",
    ]
    return "\n".join(lines) + "\n"


def comma_separated(table: Table) -> str:
    """One header row with both levels; notes are left out."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["block", *(column.flat for column in table.columns)])
    writer.writerows([block, *map(_harmless, cells)] for block, cells in table.rows)
    return text.getvalue()


def page(table: Table) -> str:
    """A whole page that needs nothing else."""
    spans = "".join(f'<th colspan="{width}">{html.escape(text)}</th>' for text, width in _spans(table.columns))
    names = "".join(f"<th>{html.escape(column.name)}</th>" for column in table.columns)
    body = []
    for block, rows in table.blocks():
        for i, cells in enumerate(rows):
            first = f'<th rowspan="{len(rows)}" scope="rowgroup">{html.escape(block)}</th>' if i == 0 else ""
            body.append(f"<tr>{first}{''.join(f'<td>{html.escape(cell)}</td>' for cell in cells)}</tr>")
    notes = "".join(f"<li>{html.escape(note)}</li>" for note in table.notes)
    style = (
        "body{font:15px system-ui,sans-serif;margin:2em}table{border-collapse:collapse}"
        "td,th{padding:.3em .7em;border-bottom:1px solid #ccc;text-align:left}thead th{border-bottom:2px solid #333}"
    )
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(table.title)}</title>'
        f"<style>{style}</style></head><body>\n<h1>{html.escape(table.title)}</h1>\n<table><thead>"
        f"<tr><th></th>{spans}</tr><tr><th></th>{names}</tr></thead>\n<tbody>{chr(10).join(body)}</tbody></table>\n"
        f"<ul>{notes}</ul>\n</body></html>\n"
    )


def _spans(columns: Sequence[Column]) -> list[tuple[str, int]]:
    return [(over, len(list(group))) for over, group in groupby(columns, key=lambda column: column.over)]


def _pipe(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


def _latex_span(text: str, width: int) -> str:
    return f"\\multicolumn{{{width}}}{{c}}{{{_tex(text)}}}"


_TEX = {c: f"\\{c}" for c in "&%$#_{}"} | {
    "\\": "\\textbackslash{}",
    "~": "\\textasciitilde{}",
    "^": "\\textasciicircum{}",
    "†": "$\\dagger$",
    "–": "--",
}


def _tex(text: str) -> str:
    return "".join(_TEX.get(char, char) for char in text)


def _harmless(cell: str) -> str:
    """A model's name that begins like a formula must not become one in a spreadsheet."""
    return f"'{cell}" if cell[:1] in ("=", "+", "-", "@") else cell
