"""What makes two stages the same: the hash that their outputs are found by.

It is the hash of a run (`rethink/recipe/identity.py`), with the hash of each stage that is used in the place of its
name, and the content of each file that is read in the place of its path. So a renamed stage or a moved file is found
again, and any change upstream changes everything below it, and nothing else. The commit is recorded and not hashed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rethink.kinds.pipeline.stages import ResolvedStage, substitute
from rethink.recipe.identity import differing, hash_of, leaves
from rethink.runs.inputs import function_hashes, names_function, names_path, path_hash, path_of


def stage_hashes(stages: Sequence[ResolvedStage]) -> dict[str, str]:
    """The hash (SHA-256, hex) of each stage by name; `stages` in order, inputs first.

    Raises:
        RunFolderError: a file that a recipe names cannot be read.
    """
    hashes: dict[str, str] = {}
    for stage in stages:
        hashes[stage.name] = stage_hash(stage, hashes)
    return hashes


def stage_hash(stage: ResolvedStage, inputs: Mapping[str, str]) -> str:
    """The hash of a stage; `inputs`: those of the stages before it, by name."""
    values = substitute(differing(stage.recipe), lambda used, output: f"${{{inputs[used]}.{output}}}")
    return hash_of(stage.kind, _with_content(values, leaves(values)))


def local_paths(value: Any) -> list[str]:
    """Texts in a recipe that name a file or folder that exists."""
    values = leaves(value)
    return [
        text
        for field, text in values.items()
        if isinstance(text, str) and path_of(_file_of(text), certain=names_path(field, values)) is not None
    ]


def _with_content(value: Any, values: Mapping[str, Any], field: str = "") -> Any:
    """The value with the content's hash in the place of each path and function. `values`: the recipe's leaves."""
    if isinstance(value, dict):
        return {key: _with_content(item, values, f"{field}.{key}" if field else key) for key, item in value.items()}
    if isinstance(value, list):
        return [_with_content(item, values, f"{field}.{i}") for i, item in enumerate(value)]
    if not isinstance(value, str):
        return value
    if names_function(field, values):
        code = function_hashes(value)
        return f"content:{':'.join(code.values())}:{value.rpartition(':')[2]}" if code else value
    path = path_of(value, certain=names_path(field, values))
    return value if path is None else f"content:{path_hash(path, field)}"


def _file_of(text: str) -> str:
    """The file that `file.py:function` names; any other text as it is."""
    file, _, attribute = text.rpartition(":")
    return file if file.endswith(".py") and attribute.isidentifier() else text
