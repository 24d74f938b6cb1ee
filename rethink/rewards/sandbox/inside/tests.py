"""The process of the tests. It never holds the program: names that the program defines are stand-ins, which send calls
out as plain data and read plain data back, so that each comparison is one of values that this process made.
"""

from __future__ import annotations

import ast
import builtins
import os
import random
import sys
import types
from typing import Any, NoReturn, TypeVar

from . import wire

_T = TypeVar("_T")

MAX_WHY = 500

_requests: Any = None
_replies = -1


class NoVerdict(BaseException):
    """The program's reply cannot be read. Not an Exception: tests that catch those must not go on."""


class Unfit(BaseException):
    """The tests ask for something that cannot be done, whatever the program is."""


def run(payload: dict[str, Any]) -> int:
    """Run the tests and send the verdict, one line: `{"verdict": "passed" | "failed" | "unfit", "why"}`.

    The payload: `setup`, sources that must run (imports, helpers); `tests`, sources that assert; `entry`, the name
    whose value must be the program's (None: any name that is defined nowhere else is).
    """
    global _requests, _replies
    _requests = os.fdopen(os.dup(0), "rb")
    _replies = os.dup(1)
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
    _send(message)
    return 0


def _run(payload: dict[str, Any]) -> None:
    module = types.ModuleType("tests")
    sys.modules["tests"] = module
    space = module.__dict__
    try:
        for source in payload["setup"]:
            exec(compile(source, "setup.py", "exec", dont_inherit=True), space)
        trees = [ast.parse(source, "tests.py") for source in payload["tests"]]
        codes = [compile(tree, "tests.py", "exec", dont_inherit=True) for tree in trees]
    except Exception as error:
        raise Unfit(f"the tests cannot be run: {_why(error)}") from None
    entry = payload["entry"]
    wanted = {name for tree in trees for name in _free_names(tree, space)}
    if not wanted and not entry:  # the program's function is named as a built-in one is, say `sum`
        wanted = set.intersection(*map(_called_builtins, trees))
    found = _ask({"op": "names", "names": sorted(wanted | ({entry} if entry else set()))})
    if not isinstance(found, dict):
        raise NoVerdict("the program's names cannot be read")
    if entry and entry not in found:
        raise NameError(f"the program does not define {entry}")
    space.update({name: value for name, value in found.items() if name in wanted or name == entry})
    for code in codes:
        exec(code, space)


def _free_names(tree: ast.AST, space: dict[str, Any]) -> set[str]:
    """Names that the tests read and that neither they, their setup nor Python define."""
    read: set[str] = set()
    made: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            (read if isinstance(node.ctx, ast.Load) else made).add(node.id)
        elif isinstance(node, ast.arg):
            made.add(node.arg)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            made.add(node.name)
        elif isinstance(node, ast.alias):
            made.add((node.asname or node.name).partition(".")[0])
    return {name for name in read - made if name not in space and not hasattr(builtins, name)}


def _called_builtins(tree: ast.AST) -> set[str]:
    called = (node.func for node in ast.walk(tree) if isinstance(node, ast.Call))
    return {func.id for func in called if isinstance(func, ast.Name) and hasattr(builtins, func.id)}


def _send(message: Any) -> None:
    data = memoryview(wire.dumps(message))
    while data:
        data = data[os.write(_replies, data) :]


def _ask(request: Any) -> Any:
    """One request to the program and its answer. Raises what the program raised, as a built-in exception."""
    _send(request)
    line = _requests.readline()
    try:
        reply = wire.loads(line)
        if not isinstance(reply, dict):
            raise wire.Unreadable("not a reply")
        if "v" in reply:
            return wire.decode(reply["v"], Remote)
        if "e" in reply:
            _raise(reply["e"], reply.get("m"))
        if reply.get("stop") is True and request["op"] == "next":
            raise StopIteration
        raise wire.Unreadable("not a reply")
    except (wire.Unreadable, RecursionError, MemoryError) as error:
        raise NoVerdict(f"what the program returned is no plain data ({error})") from None


def _raise(names: Any, text: Any) -> NoReturn:
    """The first of the names that is a built-in exception.

    Never one that ends a loop (StopIteration: `all(map(f, xs))` would be true at once) or a process.
    """
    if not isinstance(names, list) or not isinstance(text, str):
        raise wire.Unreadable("not an exception")
    for name in names:
        kind = getattr(builtins, name, None) if isinstance(name, str) else None
        if (
            isinstance(kind, type)
            and issubclass(kind, Exception)
            and not issubclass(kind, StopIteration | StopAsyncIteration | UnicodeError | BaseExceptionGroup)
        ):
            raise kind(text)
    raise RuntimeError(text)


class Remote:
    """An object that stays with the program: a function, a class, an iterator, an instance.

    It is equal to itself alone; what it says of itself (length, truth, text, items) comes as plain data.
    """

    def __init__(self, number: int):
        self._number = number

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call it there, with plain data."""
        a, k = wire.encode(list(args), _node), wire.encode(kwargs, _node)
        return _ask({"op": "call", "h": self._number, "a": a, "k": k})

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _ask({"op": "get", "h": self._number, "name": name})

    def __getitem__(self, key: Any) -> Any:
        return _ask({"op": "item", "h": self._number, "a": wire.encode(key, _node)})

    def __iter__(self) -> Any:
        return _iterator(_ask({"op": "iter", "h": self._number}))

    def __next__(self) -> Any:
        return _ask({"op": "next", "h": self._number})

    def __len__(self) -> int:
        return _of(int, _ask({"op": "len", "h": self._number}))

    def __bool__(self) -> bool:
        return _of(bool, _ask({"op": "bool", "h": self._number}))

    def __str__(self) -> str:
        return _of(str, _ask({"op": "str", "h": self._number}))


def _of(kind: type[_T], value: Any) -> _T:
    if type(value) is not kind:
        raise TypeError(f"expected {kind.__name__}, not {type(value).__name__}")
    return value


def _iterator(value: Any) -> Any:
    return value if isinstance(value, Remote) else iter(value)


def _node(value: Any) -> Any:
    if isinstance(value, Remote):
        return {"h": value._number}
    raise Unfit(f"the tests pass a value of type {type(value).__name__}, which cannot cross as plain data")


def _why(error: BaseException) -> str:
    try:
        return f"{type(error).__name__}: {error}"[:MAX_WHY]
    except BaseException:
        return type(error).__name__
