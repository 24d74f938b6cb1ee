"""The program's end of its exchange with the tests, in a process that the program may overwrite.

    {"op": …}                 request of the tests    ─►  {"v": value} or {"e": exception}; "m": containers that changed
    {"do": …, "k": number}    request of the program  ─►  {"v"}, {"e"} or {"stop": true}, of what the tests handed over

Either side may ask while it is asked, as functions that are given to functions do.
"""

from __future__ import annotations

import importlib
import operator
import os
import types
from collections.abc import Callable
from typing import Any, BinaryIO

from . import wire

MAX_WHY = 500
MOST_BASES = 20


class Link:
    """Answers requests of the tests.

    Args:
        requests: where they come from.
        replies: descriptor for the answers.
        module: whose names the tests may ask for.
    """

    def __init__(self, requests: BinaryIO, replies: int, module: types.ModuleType):
        self._requests, self._replies, self._module = requests, replies, module
        self._held: list[Any] = []
        self._numbers: dict[int, int] = {}
        self._theirs: dict[int, Theirs] = {}

    def serve(self) -> None:
        """Until the tests have ended."""
        for line in self._requests:
            self.send(self._answer(wire.loads(line)))

    def send(self, message: Any) -> None:
        """One line."""
        data = memoryview(wire.dumps(message))
        while data:
            data = data[os.write(self._replies, data) :]

    def ask(self, do: str, number: int, **more: Any) -> Any:
        """Have the tests do something with an object of theirs. Raises what that raises."""
        self.send({"do": do, "k": number, **more})
        while True:
            reply = wire.loads(self._requests.readline())
            if "op" in reply:
                self.send(self._answer(reply))
            elif "v" in reply:
                return wire.decode(reply["v"], self._find)
            elif "stop" in reply:
                raise StopIteration
            else:
                raise self._raised(*reply["e"])

    def _raised(self, name: str, args: list[Any], number: int | None) -> BaseException:
        """What the tests raised: the program's own object where it is one."""
        if number is not None:
            error: BaseException = self._held[number]
            return error
        kind: Any = wire.TYPES[f"builtins.{name}"]
        made: BaseException = kind(*(wire.decode(node, self._find) for node in args))
        return made

    def hold(self, value: Any) -> Any:
        """The node of an object that stays here, or of one that the tests have handed over."""
        if type(value) is Theirs:
            return {"h": {"theirs": number_of(value)}}
        number = self._number(value)
        if isinstance(value, type) and issubclass(value, Exception):
            return {"h": self._class(value, MOST_BASES)}
        name = type(value).__name__
        return {"h": [number, name] if vars(self._module).get(name) is type(value) else number}

    def _number(self, value: Any) -> int:
        if id(value) not in self._numbers:
            self._numbers[id(value)] = len(self._held)
            self._held.append(value)
        return self._numbers[id(value)]

    def _class(self, kind: type[BaseException], depth: int) -> Any:
        """An exception class: the name of a built-in one, else its number, name and bases."""
        if kind.__module__ == "builtins" or not depth:
            return kind.__name__
        bases = [self._class(base, depth - 1) for base in kind.__bases__ if issubclass(base, BaseException)]
        return {"class": self._number(kind), "name": kind.__name__, "bases": bases}

    def _find(self, named: Any) -> Any:
        if isinstance(named, int):
            return self._held[named]
        if isinstance(named, list):  # of the standard library
            return operator.attrgetter(named[1])(importlib.import_module(named[0]))
        number = named["theirs"]
        return self._theirs.setdefault(number, Theirs(self, number))

    def _answer(self, request: Any) -> Any:
        known = wire.Containers(growing=True)
        sent: list[Any] = []
        try:
            more = [wire.decode(node, self._find, known) for node in request.get("a", ())]
            named = {key: wire.decode(node, self._find, known) for key, node in request.get("k", {}).items()}
            known.growing = False
            sent = [wire.content(value, self.hold, known) for value in known.objects]
            reply: dict[str, Any] = {"v": self._perform(request, more, named, known)}
        except StopIteration:
            reply = {"e": ["RuntimeError", "StopIteration was raised", None, []]}
            if request["op"] == "do" and request["name"] == "next":
                reply = {"stop": True}
        except BaseException as error:
            reply = {"e": self._exception(error)}
        if sent:
            now = [wire.content(value, self.hold, known) for value in known.objects]
            reply["m"] = [[number, node] for number, node in enumerate(now) if node != sent[number]]
        return reply

    def _perform(self, request: Any, more: list[Any], named: dict[str, Any], known: wire.Containers) -> Any:
        op = request["op"]
        if op == "names":
            found = {name: getattr(self._module, name) for name in request["names"] if hasattr(self._module, name)}
            # A type of the standard library is named beside: the tests may take their own.
            types = {name: wire.encode(value, self.hold) for name, value in found.items() if isinstance(value, type)}
            nodes = {n: self.hold(v) if isinstance(v, type) else wire.encode(v, self.hold) for n, v in found.items()}
            return {"nodes": nodes, "types": {name: node["T"] for name, node in types.items() if "T" in node}}
        target = self._held[request["h"]]
        action = target if op == "call" else _ACTIONS[request["name"]]
        value = action(*more, **named) if op == "call" else action(target, *more)
        return wire.encode(value, self.hold, known)

    def _exception(self, error: BaseException) -> list[Any]:
        """[class, text, number of the object, arguments]; no arguments where they are no plain data."""
        try:
            arguments = wire.encode(list(error.args), self.hold)
        except Exception:
            arguments = []
        return [self._class(type(error), MOST_BASES), text_of(error), self._number(error), arguments]


class Theirs:
    """An object of the tests that was handed to the program: a function, an iterator, an instance of their class."""

    __slots__ = ("_link", "_number")

    def __init__(self, link: Link, number: int):
        object.__setattr__(self, "_link", link)
        object.__setattr__(self, "_number", number)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call it there."""
        return self._ask("call", *args, **kwargs)

    def __iter__(self) -> Any:
        return self._ask("iter")

    def __next__(self) -> Any:
        return self._ask("next")

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return self._ask("get", name)

    def __setattr__(self, name: str, value: Any) -> None:
        self._ask("set", name, value)

    def _ask(self, do: str, *args: Any, **kwargs: Any) -> Any:
        link, number = object.__getattribute__(self, "_link"), number_of(self)
        return link.ask(
            do,
            number,
            a=[wire.encode(value, link.hold) for value in args],
            n={key: wire.encode(value, link.hold) for key, value in kwargs.items()},
        )


def number_of(theirs: Theirs) -> int:
    """The number that the tests know it by."""
    number: int = object.__getattribute__(theirs, "_number")
    return number


def text_of(error: BaseException) -> str:
    """What an exception says of itself."""
    try:
        return str(error)[:MAX_WHY]
    except BaseException:
        return ""


def _size(value: Any) -> int:
    return len(value)


_ACTIONS: dict[str, Callable[..., Any]] = {
    "get": getattr,
    "set": setattr,
    "iter": iter,
    "next": next,
    "len": _size,
    "bool": bool,
    "str": str,
    "repr": repr,
    "hash": hash,
    "int": int,
    "float": float,
    "abs": abs,
    "neg": operator.neg,
    "isinstance": lambda kind, value: isinstance(value, kind),
    "getitem": operator.getitem,
    "setitem": operator.setitem,
    "delitem": operator.delitem,
    "enter": lambda value: type(value).__enter__(value),
    "exit": lambda value: type(value).__exit__(value, None, None, None),
    **{
        name: getattr(operator, f"__{name}__")
        for name in "eq ne lt le gt ge add sub mul truediv floordiv mod pow matmul and or xor".split()
    },
}
