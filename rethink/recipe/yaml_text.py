"""YAML that people write, within bounds: the safe loader with two changes, and limits on what a text may grow into.

A key given twice is an error, and `2e-5` is a number (YAML 1.1 wants `2.0e-5` and would make it text).
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterable
from typing import Any

import yaml

from rethink.errors import RecipeError
from rethink.reading import check_expanded

MOST_BYTES = 1 << 19
"""Of a text: PyYAML takes up to eight seconds for as much."""
MOST_LETTERS = 1 << 22
"""Of a text whose aliases are written out."""
_LONGEST_NUMBER = 64
_NUMBERS = frozenset(f"tag:yaml.org,2002:{kind}" for kind in ("int", "float", "timestamp"))

# YAML 1.1 wants `2.0e-5`; this is the rest of what people write.
_FLOAT = re.compile(r"^[-+]?[0-9][0-9_]*(?:\.[0-9_]*)?[eE][-+]?[0-9]+$")


class _Loader(yaml.SafeLoader):
    """Safe YAML that refuses a key given twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: dict[str, int] = {}
        for key_node, _ in node.value:
            if not isinstance(key_node, yaml.ScalarNode) or key_node.value == "<<":
                continue  # the parent class refuses other keys, and merges `<<` below the keys written out
            if key_node.tag == "tag:yaml.org,2002:bool":
                key_node.tag = "tag:yaml.org,2002:str"  # YAML 1.1 takes the key `on` for true
            key, line = key_node.value, key_node.start_mark.line + 1
            if key in seen:
                raise RecipeError(
                    f"The key `{key}` is given twice in the same place, in lines {seen[key]} and {line}; YAML would "
                    "take the last one silently. Remove one of them."
                )
            seen[key] = line
        return super().construct_mapping(node, deep)


class RecipeDumper(yaml.SafeDumper):
    """Safe YAML with several lines of text as a block."""


def _block(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


RecipeDumper.add_representer(str, _block)
# On a subclass this copies the rules first: the library's own classes stay as they are. The dumper needs the rule too,
# or it would write the text "2e-5" without quotes.
for _class in (_Loader, RecipeDumper):
    _class.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789"))


def load_yaml(text: str) -> Any:
    """The value of a YAML text.

    Raises:
        yaml.YAMLError: it is no YAML, too large, too deep, within itself, or small only through its aliases.
        RecipeError: a key is given twice.
    """
    if len(text) > MOST_BYTES:
        raise yaml.YAMLError(f"it has {len(text):,} letters, and {MOST_BYTES:,} are allowed")
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        check_expanded(node, _parts_of_node, MOST_LETTERS, {})
        return loader.construct_document(node)
    except (yaml.YAMLError, RecipeError):
        raise
    except RecursionError:
        raise yaml.YAMLError("it is nested too deeply") from None
    except Exception as error:  # the library raises whatever int() and datetime() do with a value
        raise yaml.YAMLError(str(error)[:200]) from None
    finally:
        loader.dispose()


def _parts_of_node(node: yaml.Node) -> tuple[int, Iterable[yaml.Node]]:
    """What `check_expanded` counts; refuses numbers and texts that Python cannot make or write."""
    if isinstance(node, yaml.MappingNode):
        return 1, [part for pair in node.value for part in pair]
    if isinstance(node, yaml.SequenceNode):
        return 1, node.value
    value: str = node.value
    problem = None
    if node.tag in _NUMBERS and len(value) > _LONGEST_NUMBER:
        problem = f"a number of {len(value):,} letters"
    elif any("\ud800" <= letter <= "\udfff" for letter in value):
        problem = "half a surrogate pair, which is no character"
    if problem is not None:
        raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)
    return 1 + len(value), ()
