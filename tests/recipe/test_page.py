"""The committed reference is that of the schema, and every field is described."""

from __future__ import annotations

from rethink.recipe.fields import walk_fields
from rethink.recipe.kind import kinds
from rethink.recipe.page import reference
from tests.paths import ROOT

PAGE = ROOT / "docs/recipe.md"


def test_the_committed_page_is_current() -> None:
    assert PAGE.read_text(encoding="utf-8") == reference(), "run: python -m rethink.recipe.page docs/recipe.md"


def test_every_field_has_a_docstring() -> None:
    fields = [(kind.name, field) for kind in kinds().values() for field in walk_fields(kind.model)]
    assert [(kind, field.path) for kind, field in fields if not field.info.description] == []


def test_every_section_is_there() -> None:
    page = reference()
    for section in ("`model.shape.mixture`", "`tasks.N.curriculum.N`", "`reward.parts.N`", "`prompt.examples.N`"):
        assert f"## {section}" in page
