"""No module outside `rethink/kinds/` knows a kind of run by its name, and none below it by its recipe."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from pathlib import Path

from rethink.recipe import base
from rethink.recipe.kind import kinds
from tests.paths import ROOT

ALLOWED = {
    ("recipe/kind.py", "grpo"): "DEFAULT_KIND: what a recipe without `kind` is",
    ("recipe/schema.py", "reward-model"): "the reward of that name",
    ("algorithms/objectives/grpo.py", "grpo"): "the objective of that name",
    ("recipe/schema.py", "grpo"): "the objective of that name",
    ("recipe/checks.py", "reward-model"): "the reward of that name",
    ("rewards/built_in/ours.py", "reward-model"): "the reward of that name",
}
WORDS = {"samples", "eval", "pipeline"}
"""Kinds whose names are words of other things too: they are looked for only where something is called `kind`."""


def known_by_name(path: Path) -> Iterator[tuple[int, str]]:
    names = set(kinds())
    tree = ast.parse(path.read_text(encoding="utf-8"))
    about_kinds = [
        node
        for node in ast.walk(tree)
        if (isinstance(node, (ast.Compare, ast.Subscript)) and "kind" in ast.unparse(node).lower())
        or (isinstance(node, ast.keyword) and node.arg == "kind")
        or (isinstance(node, ast.AnnAssign | ast.Assign) and "kind" in ast.unparse(node).split("=")[0].lower())
    ]
    close = {id(inner) for node in about_kinds for inner in ast.walk(node)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and node.value in names and (node.value not in WORDS or id(node) in close):
            yield node.lineno, node.value


def test_no_kind_is_known_by_name() -> None:
    package = ROOT / "rethink"
    files = {path.relative_to(package).as_posix(): path for path in package.rglob("*.py") if "kinds" not in path.parts}
    found = [
        f"{where}:{line} {name}"
        for where, path in files.items()
        for line, name in known_by_name(path)
        if (where, name) not in ALLOWED
    ]
    assert found == [], "put what is known of a kind into its record (rethink/recipe/kind.py)"


def test_the_search_finds_what_it_looks_for(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text(
        'if stage.kind == "eval": pass\nKINDS = {"samples": 1}\nx = "grpo"\nStage(kind="pipeline")\ny = ["samples"]\n'
        'kind: Literal["sft"] = "sft"\nif entry["kind"] in ("samples", "eval"): pass\n'
    )
    found = sorted(set(known_by_name(tmp_path / "a.py")))
    assert found == [
        (1, "eval"), (2, "samples"), (3, "grpo"), (4, "pipeline"), (6, "sft"), (7, "eval"), (7, "samples"),
    ]  # fmt: skip


ABOVE = ("kinds", "check", "cli", "distributed")
"""Rooms that may know the recipes of kinds; all others take sections, or what `recipe/base.py` says of every recipe."""
BASES = {name for name, _ in inspect.getmembers(base, inspect.isclass) if name.endswith("Recipe")}


def recipes_imported(path: Path) -> Iterator[tuple[int, str]]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            yield from ((node.lineno, alias.name) for alias in node.names if alias.name.endswith("Recipe"))


def test_nothing_below_the_kinds_imports_a_recipe_of_one() -> None:
    package = ROOT / "rethink"
    below = [path for path in package.rglob("*.py") if path.relative_to(package).parts[0] not in ABOVE]
    found = [
        f"{path.relative_to(package)}:{line} {name}"
        for path in below
        for line, name in recipes_imported(path)
        if name not in BASES
    ]
    assert found == [], "take the sections that are needed"
    assert {"AnyRecipe", "ModelRecipe", "AskingRecipe", "TrainingRecipe", "RowsRecipe"} == BASES
    assert "Recipe" in {name for _, name in recipes_imported(package / "kinds" / "grpo" / "run.py")}
