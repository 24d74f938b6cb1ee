"""The pages and help texts avoid the phrases that docs/glossary.md lists."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from rethink.cli.main import build_parser

ROOT = Path(__file__).resolve().parents[2]
GLOSSARY = ROOT / "docs/glossary.md"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def avoided() -> re.Pattern[str]:
    """The phrases on the left of the glossary's last table, as whole words, whatever white space parts them."""
    table = GLOSSARY.read_text("utf-8").split("| avoid | write |\n")[1]
    phrases = re.findall(r"^\| ([^|]*[^|-]) \|", table, re.MULTILINE)
    assert len(phrases) > 20
    return re.compile(r"\b(?:" + "|".join(re.escape(each).replace(r"\ ", r"\s+") for each in phrases) + r")\b", re.I)


def helps(parser: argparse.ArgumentParser) -> Iterator[tuple[str, str]]:
    """Every command with its help text."""
    yield parser.prog, parser.format_help()
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for child in action.choices.values():
                yield from helps(child)


@pytest.mark.parametrize("page", [page for page in PAGES if page != GLOSSARY], ids=lambda page: page.name)
def test_a_page_avoids_the_listed_phrases(page: Path) -> None:
    assert [match[0] for match in avoided().finditer(page.read_text("utf-8"))] == []


def test_the_help_texts_avoid_the_listed_phrases() -> None:
    found = {command: [match[0] for match in avoided().finditer(text)] for command, text in helps(build_parser())}
    assert len(found) > 10
    assert {command: phrases for command, phrases in found.items() if phrases} == {}


def test_the_pages_link_the_glossary() -> None:
    assert all("docs/glossary.md" in (ROOT / name).read_text("utf-8") for name in ("README.md", "CONTRIBUTING.md"))
