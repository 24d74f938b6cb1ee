"""Each entry of the glossary is whole, and its page is current; tests/kinds/test_metrics.py compares it with runs."""

from pathlib import Path

import pytest

from rethink.observe import glossary

DOCS = Path(__file__).parents[2] / "docs" / "metrics.md"


@pytest.mark.parametrize("name", glossary.GLOSSARY)
def test_every_entry_is_whole(name: str) -> None:
    info = glossary.describe(name)
    assert info.name == name
    assert all((info.meaning, info.healthy, info.unhealthy_action, info.source))


def test_no_name_is_there_twice() -> None:
    names = [info.name for _, _, infos in glossary.SECTIONS for info in infos]
    assert len(names) == len(set(names))


def test_reward_parts_and_unknown_names() -> None:
    assert glossary.describe("reward/accuracy").unit == "score"
    assert glossary.describe("reward/accuracy").name == "reward/accuracy"
    assert glossary.describe("failure/timeout").unit == "outcomes"
    for name in ("reward/", "failure/", "policy/nonsense", ""):
        with pytest.raises(KeyError):
            glossary.describe(name)


def test_the_page_is_current() -> None:
    assert DOCS.read_text() == glossary.markdown() + "\n", "run: python -m rethink.observe.glossary > docs/metrics.md"


def test_the_page_is_a_table_of_six_columns() -> None:
    rows = [line for line in glossary.markdown().splitlines() if line.startswith("|")]
    assert {line.count("|") for line in rows} == {7}
