"""The process of the tests. It never holds the program: names that the program defines are stand-ins, which send calls
out as plain data and read plain data back, so that each comparison is one of values that this process made.
"""

from __future__ import annotations

import ast
import builtins
import contextlib
import importlib
import os
import random
import sys
import types
from collections.abc import Sequence
from typing import Any

from .remote import EXCHANGE

MAX_WHY = 500


class Unfit(BaseException):
    """The tests ask for something that cannot be done, whatever the program is."""


def run(payload: dict[str, Any]) -> int:
    """Run the tests and send the verdict, one line: `{"verdict": "passed" | "failed" | "unfit", "why"}`.

    The payload: `setup`, sources that must run (imports, helpers, objects of the program's classes); `tests`, sources
    that assert; `entry`, the name whose value must be the program's (None: any name that is defined nowhere else is).
    """
    EXCHANGE.open(os.fdopen(os.dup(0), "rb"), os.dup(1))
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    random.seed(0)
    try:
        _run(payload)
        message = {"verdict": "passed", "why": ""}
    except Unfit as error:
        message = {"verdict": "unfit", "why": str(error)}
    except BaseException as error:
        message = {"verdict": "failed", "why": _why(error)}
    EXCHANGE.send(message)
    return 0


def _run(payload: dict[str, Any]) -> None:
    module = types.ModuleType("tests")
    sys.modules["tests"] = module
    space = module.__dict__
    try:
        later = _set_up(payload["setup"], space)
        trees = [_ExpectedFirst().visit(ast.parse(source, "tests.py")) for source in (*later, *payload["tests"])]
        codes = [compile(tree, "tests.py", "exec", dont_inherit=True) for tree in trees]
    except Exception as error:
        raise Unfit(f"the tests cannot be run: {_why(error)}") from None
    entry = payload["entry"]
    wanted = {name for tree in trees for name in _free_names(tree, space)}
    for tree in trees[: len(later)]:
        wanted -= _made(tree)
    wanted -= _import_modules(wanted, trees, space)
    if not wanted and not entry:  # the program's function is named as a built-in one is, say `sum`
        wanted = set.intersection(*map(_called_builtins, trees))
    asked = wanted | ({entry} if entry else set())
    found, types_of_library = EXCHANGE.names(sorted(asked))
    if entry and entry not in found:
        raise NameError(f"the program does not define {entry}")
    EXCHANGE.named |= asked
    space.update({name: value for name, value in found.items() if name in asked})
    if len(types_of_library) < len(found):  # else they are what is tested
        space.update({name: kind for name, kind in types_of_library.items() if kind.__name__ == name != entry})
    for code in codes:
        exec(code, space)


class _ExpectedFirst(ast.NodeTransformer):
    """Turns `f(xs) == sorted(xs)` round: what is expected is computed before the program could change what it is
    computed from. Where nothing is changed, the order makes no difference.
    """

    def visit_Compare(self, node: ast.Compare) -> ast.AST:
        """Of two sides that call something with the same variable, the second one first."""
        self.generic_visit(node)
        if len(node.ops) == 1 and isinstance(node.ops[0], ast.Eq | ast.NotEq):
            left, right = node.left, node.comparators[0]
            if _called_with(left) & _called_with(right):
                return ast.copy_location(ast.Compare(right, node.ops, [left]), node)
        return node


def _called_with(node: ast.AST) -> set[str]:
    """Variables within the arguments of calls."""
    calls = (call for call in ast.walk(node) if isinstance(call, ast.Call))
    inner = (name for call in calls for value in (*call.args, *call.keywords) for name in ast.walk(value))
    return {name.id for name in inner if isinstance(name, ast.Name)}


def _set_up(sources: Sequence[str], space: dict[str, Any]) -> list[str]:
    """Run sources; gives those that need the program's names, from the first such one on."""
    for number, source in enumerate(sources):
        try:
            exec(compile(source, "setup.py", "exec", dont_inherit=True), space)
        except NameError:
            return list(sources[number:])
    return []


def _import_modules(names: set[str], trees: Sequence[ast.AST], space: dict[str, Any]) -> set[str]:
    """Import those of the names that the tests use as modules of the standard library, and nothing else: a program
    that happens to import or to define `sys` must not choose what the tests compute with.
    """
    used: dict[str, set[str]] = {}
    attributes = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
    for node in attributes:
        if isinstance(node.value, ast.Name) and node.value.id in names & sys.stdlib_module_names:
            used.setdefault(node.value.id, set()).add(node.attr)
    bases = {id(node.value) for node in attributes}
    for tree in trees:
        for name in ast.walk(tree):
            if isinstance(name, ast.Name) and id(name) not in bases:
                used.pop(name.id, None)
    imported = set()
    for module, wanted in used.items():
        with contextlib.suppress(Exception):
            found = importlib.import_module(module)
            if all(hasattr(found, attribute) for attribute in wanted):
                space[module] = found
                imported.add(module)
    return imported


def _made(tree: ast.AST) -> set[str]:
    """Names that a source binds."""
    made: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
            made.add(node.id)
        elif isinstance(node, ast.arg):
            made.add(node.arg)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.ExceptHandler):
            made.add(node.name or "")
        elif isinstance(node, ast.alias):
            made.add((node.asname or node.name).partition(".")[0])
    return made


def _free_names(tree: ast.AST, space: dict[str, Any]) -> set[str]:
    """Names that the tests read and that neither they, their setup nor Python define."""
    read = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)}
    return {name for name in read - _made(tree) if name not in space and not hasattr(builtins, name)}


def _called_builtins(tree: ast.AST) -> set[str]:
    called = (node.func for node in ast.walk(tree) if isinstance(node, ast.Call))
    return {func.id for func in called if isinstance(func, ast.Name) and hasattr(builtins, func.id)}


def _why(error: BaseException) -> str:
    try:
        return f"{type(error).__name__}: {error}"[:MAX_WHY]
    except BaseException:
        return type(error).__name__
