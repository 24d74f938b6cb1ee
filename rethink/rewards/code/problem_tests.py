"""The tests that come with a problem, in the forms that data sets use.

HumanEval        `test` (defines `check(candidate)`), `entry_point`, `prompt`
MBPP             `test_list` (assert statements), `test_imports`, `test_setup_code`
stdin / stdout   `tests`, `official_tests`, `public_test_cases` + `private_test_cases`, `input_output`, `examples`:
                 a list of {"input", "output"}, or {"inputs": [...], "outputs": [...]}, or either as JSON text.
                 LiveCodeBench's functional cases are marked by `testtype: functional` and a function's name
                 (`fn_name`, or `func_name` in the row's `metadata`); their inputs are JSON, an argument a line.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

PAIR_KEYS = ("tests", "official_tests", "public_test_cases", "private_test_cases", "input_output")
"""Where pairs are looked for; `examples` only where none of these holds any."""

_LIVECODEBENCH_KEYS = ("public_test_cases", "private_test_cases", "starter_code")
"""Keys that a row of LiveCodeBench has, and no other."""
_STARRED = (
    "string re datetime collections heapq bisect copy math random statistics itertools functools operator io sys json "
    "builtins typing"
).split()
_PLAIN = [name for name in _STARRED if name not in ("builtins", "typing")]
LIVECODEBENCH = "\n".join(
    [f"from {name} import *" for name in _STARRED]
    + [f"import {name}" for name in _PLAIN]
    + ["sys.setrecursionlimit(50_000)"]
)
"""What LiveCodeBench's grader runs before every program: all names of these modules in this order, the modules, and the
depth of recursion (`import_string` of lcb_runner/evaluation/testing_util.py at 15808c7; its prompts promise nothing of
it, but programs written for LeetCode rely on it)."""


@dataclass(frozen=True, slots=True)
class Assertions:
    """Tests that call the program and assert."""

    tests: tuple[str, ...]
    """Sources, run in order in one name space."""
    setup: tuple[str, ...] = ()
    """Sources that must run first: imports, helpers that are given."""
    entry: str | None = None
    """The name that must be the program's."""
    prompt: str = ""
    """Code that the program continues or repeats."""
    before: tuple[str, ...] = ()
    """Sources that the program may rely on."""


@dataclass(frozen=True, slots=True)
class Pairs:
    """Inputs on standard input, and the outputs expected on standard output."""

    pairs: tuple[tuple[str, str], ...]
    before: tuple[str, ...] = ()
    """Sources that the program may rely on."""


Tests = Assertions | Pairs


def read_tests(metadata: Mapping[str, Any], question: str = "") -> Tests | None:
    """The tests of a problem; None where there are none that can be read.

    Args:
        metadata: the problem's.
        question: its question, which is the code to continue where it is code and `prompt` is not given.
    """
    entry = metadata.get("entry_point")
    test = metadata.get("test")
    if isinstance(test, str) and isinstance(entry, str) and _is_name(entry):
        prompt = next((str(p) for p in (metadata.get("prompt"), question) if defines(p, entry)), "")
        setup = (prompt,) if prompt else ()
        return Assertions((test, f"check({entry})"), setup, entry, prompt)
    for key in ("test_list", "tests"):
        listed = metadata.get(key)
        if _texts(listed) and listed:
            return _asserts(metadata, tuple(listed))
    cases = [case for key in PAIR_KEYS for case in _cases(metadata.get(key), metadata)]
    cases = cases or list(_cases(metadata.get("examples"), metadata))
    if not cases or None in cases:
        return None
    known = [case for case in cases if case is not None]
    names = {case.function for case in known}
    before = (LIVECODEBENCH,) if any(key in metadata for key in _LIVECODEBENCH_KEYS) else ()
    if names == {None}:
        return Pairs(tuple((case.given, case.expected) for case in known), before)
    return _functional(known, before) if len(names) == 1 else None


def _asserts(metadata: Mapping[str, Any], tests: tuple[str, ...]) -> Assertions | None:
    imports = metadata.get("test_imports") or []
    before = metadata.get("test_setup_code") or ""
    if not _texts(imports) or not isinstance(before, str):
        return None
    setup = tuple(source for source in (*imports, before) if source.strip())
    return Assertions(tests, setup, None, "", setup)


@dataclass(frozen=True, slots=True)
class _Case:
    given: str
    expected: str
    function: str | None


def _cases(value: object, metadata: Mapping[str, Any]) -> Iterator[_Case | None]:
    """The cases of one field; None for one that cannot be read."""
    if isinstance(value, str) and value.strip():
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):  # compressed or pickled; nothing here unpickles
            yield None
            return
    if isinstance(value, Mapping):
        inputs, outputs = value.get("inputs", value.get("input")), value.get("outputs", value.get("output"))
        if not isinstance(inputs, list) or not isinstance(outputs, list) or len(inputs) != len(outputs):
            yield None
            return
        name = value.get("fn_name")
        value = [{"input": i, "output": o, "fn_name": name} for i, o in zip(inputs, outputs, strict=True)]
    if isinstance(value, list):
        for case in value:
            yield _case(case, metadata) if isinstance(case, Mapping) else None


def _case(case: Mapping[str, Any], metadata: Mapping[str, Any]) -> _Case | None:
    given, expected = case.get("input"), case.get("output")
    name = case.get("fn_name")
    if name is None and case.get("testtype") == "functional":
        name = _name(case.get("metadata")) or _name(metadata.get("metadata")) or _name(metadata)
        if name is None:
            return None
    if name is not None:
        if not isinstance(name, str) or not _is_name(name):
            return None
        # APPS gives values, LiveCodeBench gives JSON texts, one argument a line.
        given = "\n".join(map(json.dumps, given)) if isinstance(given, list) else given
        expected = json.dumps(expected) if not isinstance(expected, str) or not _is_json(expected) else expected
    elif isinstance(given, list) and isinstance(expected, list | str):
        given, expected = "\n".join(map(str, given)), expected if isinstance(expected, str) else "\n".join(expected)
    if not isinstance(given, str) or not isinstance(expected, str):
        return None
    return _Case(given, expected, name)


def _name(value: object) -> str | None:
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return None
    if not isinstance(value, Mapping):
        return None
    found = value.get("func_name", value.get("fn_name"))
    return found if isinstance(found, str) else None


_CALLS = """
import json as _json
_target = getattr(Solution(), {name!r}) if "Solution" in globals() else {name}
for _number, (_given, _expected) in enumerate(_json.loads({cases!r})):
    _got = _target(*[_json.loads(_line) for _line in _given.split("\\n") if _line.strip()])
    _got = list(_got) if isinstance(_got, tuple) else _got
    assert _got == _json.loads(_expected), f"case {{_number}}"
"""


def _functional(cases: Sequence[_Case], before: tuple[str, ...]) -> Assertions:
    packed = json.dumps([[case.given, case.expected] for case in cases])
    return Assertions((_CALLS.format(name=cases[0].function, cases=packed),), before=before)


def _is_name(text: str) -> bool:
    return text.isascii() and text.isidentifier()


def _texts(value: object) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(item, str) for item in value)


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def defines(source: object, name: str) -> bool:
    """Whether a source binds the name at its top level, as far as its lines tell. It is not parsed: it may be hostile.

    Linear in the source.
    """
    if not isinstance(source, str):
        return False
    return (
        re.search(rf"^(?:(?:async[ \t]+)?def|class)[ \t]+{name}\b|^{name}[ \t]*(?::|=(?!=))", source, re.M) is not None
    )
