"""The paper's tables: layout, values, four formats, published numbers marked as such."""

from __future__ import annotations

import csv
import html.parser
from pathlib import Path
from typing import Any

import pytest

from rethink.eval.benchmark import PAPER_MAX_TOKENS
from rethink.eval.benchmarks.catalogue import benchmarks
from rethink.eval.benchmarks.published import SOURCE, TABLE_4, TABLE_4_MODELS, TABLE_5, TABLE_6
from rethink.eval.tables.formats import Column, Table, latex, markdown, page, write_table
from rethink.eval.tables.paper import overview, paper_tables, prompting_table, reasoning


def details(share: float, k: int = 1, **more: Any) -> dict[str, Any]:
    return {
        "pass@1": share,
        "pass@1_ci": [share - 0.1, share + 0.1],
        "cons@k": share + 0.05,
        "n": 30,
        "k": k,
        "truncated": 0.0,
        "length_mean": 100.0,
        "metric": "Pass@1",
        "data": "x/y@main",
        "temperature": 0.6,
        "top_p": 0.95,
        "max_new_tokens": 8000,
        "limited_by": "context",
        "prompting": "default",
        "grader": "g",
        "note": "",
    } | more


MEASURED = {
    "small|model": {
        "gsm8k": details(0.5),
        "aime24": details(0.25, k=64),
        "mmlu": details(0.4, max_new_tokens=PAPER_MAX_TOKENS, limited_by="paper"),
    },
    "other_1": {"math500": details(0.7, k=4)},
}


def test_table_4_has_the_papers_rows_in_its_order() -> None:
    table = overview(MEASURED, published=False)
    assert [(block, cells[0]) for block, cells in table.rows] == [
        ("English", "MMLU (Pass@1)"),
        ("Math", "AIME 2024 (Pass@1)"),
        ("Math", "MATH-500 (Pass@1)"),
        ("Math", "GSM8K (Pass@1)"),
    ]
    assert table.rows[1][1][1:] == ["25.0 (15.0 – 35.0)", "–"]
    notes = "\n".join(table.notes)
    assert "at most 8,000 tokens (all that the model's context leaves)" in notes
    assert "at most 32,768 tokens (the paper's limit)" in notes
    assert "published" not in notes


def test_published_numbers_are_marked() -> None:
    table = overview(MEASURED, published=True)
    assert [column.flat for column in table.columns][3:] == [f"published † {model}" for model in TABLE_4_MODELS]
    assert len(table.rows) == len(TABLE_4) + 1
    aime = next(cells for _, cells in table.rows if cells[0].startswith("AIME"))
    assert aime[-6:] == ["16.0", "9.3", "39.2", "63.6", "79.2", "79.8"]
    assert f"† published numbers, not measured here: {SOURCE}, Table 4." in table.notes


def test_tables_5_and_6() -> None:
    table = reasoning(MEASURED, published=True, number=5)
    assert [column.flat for column in table.columns] == [
        "Model",
        "AIME 2024 pass@1",
        "AIME 2024 cons@64",
        "MATH-500 pass@1",
        "GPQA Diamond pass@1",
        "LiveCodeBench pass@1",
        "Codeforces rating",
    ]
    assert table.rows[0][1] == ["small|model", "25.0 (15.0 – 35.0)", "30.0", "–", "–", "–", "–"]
    assert table.rows[2][1] == ["GPT-4o-0513 †", "9.3", "13.4", "74.6", "49.9", "32.9", "759"]
    six = reasoning(MEASURED, published=True, number=6)
    assert len(six.columns) == 6
    assert [cells[0] for _, cells in six.rows][2:] == [f"{model} †" for model in TABLE_6]


def test_a_majority_of_fewer_says_so() -> None:
    table = reasoning({"m": {"aime24": details(0.25, k=8)}}, published=False, number=6)
    assert table.rows[0][1][2] == "30.0 (cons@8)"


def test_published_rows_agree_with_each_other() -> None:
    """What Table 4, 5 and 6 of the paper give twice must be the same number here."""
    assert all(len(numbers) == 6 for *_, numbers in TABLE_4)
    assert all(len(numbers) == 6 for numbers in TABLE_5.values())
    by_name = {name: numbers for _, _, name, numbers in TABLE_4 if name}
    columns = ("aime24", None, "math500", "gpqa-diamond", "livecodebench")
    for model in ("Claude-3.5-Sonnet-1022", "GPT-4o-0513", "OpenAI-o1-mini"):
        for name, number in zip(columns, TABLE_5[model], strict=False):
            if name is not None:
                # The paper's two tables give two values for o1-mini on LiveCodeBench and agree elsewhere.
                assert by_name[name][TABLE_4_MODELS.index(model)] == pytest.approx(number, abs=0.1)
    for model in set(TABLE_5) & set(TABLE_6):
        assert TABLE_5[model][:5] == TABLE_6[model]
    assert {name for name in by_name if name} <= set(benchmarks())


def test_only_tables_with_something_to_show() -> None:
    assert [table.name for table in paper_tables({"m": {"gsm8k": details(0.5)}}, False)] == ["table-4"]
    assert [table.name for table in paper_tables(MEASURED, False)] == ["table-4", "table-5", "table-6"]


def test_prompting_side_by_side() -> None:
    measured = {"m": {"few-shot-cot": {"gsm8k": details(0.3)}, "zero-shot-cot": {"gsm8k": details(0.5)}, "r1": {}}}
    table = prompting_table(measured)
    assert [column.name for column in table.columns] == ["Benchmark", "few-shot-cot", "zero-shot-cot", "r1"]
    assert table.rows == (("m", ["GSM8K", "30.0 (20.0 – 40.0)", "50.0 (40.0 – 60.0)", "–"]),)
    assert "m, GSM8K: few-shot-cot minus zero-shot-cot is -20.0 points." in table.notes


HOSTILE = Table("t", "<b>&%", (Column("", "a"), Column("o_1", "x|y"), Column("o_1", "z")),
                (("A", ["=1+1", "</td><script>", "\\input{x}"]), ("A", ["b", "1|2", "–"])), ("n†",))  # fmt: skip


class Cells(html.parser.HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def test_formats_hold_their_ground(tmp_path: Path) -> None:
    paths = write_table(tmp_path / "tables", HOSTILE)
    assert [path.name for path in paths] == ["t.md", "t.tex", "t.csv", "t.html"]
    assert "| A | =1+1 | </td><script> | \\input{x} |" in markdown(HOSTILE)
    assert "|  | b | 1\\|2 | – |" in markdown(HOSTILE)
    text = latex(HOSTILE)
    assert "\\multicolumn{2}{c}{o\\_1}" in text
    assert "\\textbackslash{}input\\{x\\}" in text
    assert "\\multirow{2}{*}{A}" in text
    assert text.count(" \\\\\n") == 4
    rows = list(csv.reader((tmp_path / "tables" / "t.csv").read_text("utf-8").splitlines()))
    assert rows == [["block", "a", "o_1 x|y", "o_1 z"], ["A", "'=1+1", "</td><script>", "\\input{x}"],
                    ["A", "b", "1|2", "–"]]  # fmt: skip
    parser = Cells()
    parser.feed(page(HOSTILE))
    assert "script" not in parser.tags
    assert "</td><script>" in parser.text
    assert parser.tags.count("tr") == 4
