"""The pages and help texts: they avoid the phrases that docs/glossary.md lists, and their commands parse."""

from __future__ import annotations

import argparse
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from rethink.cli.main import build_parser, parse

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


def test_nothing_says_to_install_another_project() -> None:
    """`rethink` on the package index is somebody else's: what is said to install is a checkout of ours."""
    names = subprocess.run(["git", "ls-files", "*.py", "*.md", "*.yaml"], cwd=ROOT, capture_output=True, check=True)
    named = re.compile(r"install [^\n]{0,40}(?<![\w./-])rethink(?:\[|['\"` ]*(?:\n|$))")
    found = [
        (name, match[0])
        for name in names.stdout.decode().split()
        if name != "tests/dev/test_prose.py" and (ROOT / name).is_file()
        for match in named.finditer((ROOT / name).read_text("utf-8"))
    ]
    assert found == []
    assert named.search("pip install 'rethink[serve]'")
    assert named.search("`python -m pip install rethink`\n")


def commands() -> list[tuple[str, str]]:
    """Every command of the code blocks and of the help texts, with where it is; synopses (`[…]`) are left out."""
    texts = [(page.name, page.read_text("utf-8")) for page in PAGES] + list(helps(build_parser()))
    lines = [(name, line) for name, text in texts for line in re.sub(r"\s*\\\n\s*", " ", text).splitlines()]
    found = [(name, re.match(r"(?:    |  )?(?:echo .*\| |\w+=\S+ )*rethink (.*)", line)) for name, line in lines]
    bare = [(name, re.split(r"\s{2,}|\s#|; done", match[1])[0]) for name, match in found if match]
    return [(name, command) for name, command in bare if not re.search(r" \[|^…|^\w+ [A-Z]+$|: ", command)]


def test_the_commands_parse(capsys: pytest.CaptureFixture[str]) -> None:
    refused = []
    for name, command in commands():
        try:
            parse(shlex.split(command))
        except SystemExit:
            refused.append((name, command, capsys.readouterr().err[-200:]))
    assert len(commands()) > 60
    assert refused == []
