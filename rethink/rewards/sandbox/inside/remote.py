"""The tests' end of their exchange with the program (see `link`): stand-ins for what is the program's.

What decides a verdict is compared here, between values that this process made. The program is asked to compare only
where both sides are its own and the tests name their class: an expected value never reaches it.
"""

from __future__ import annotations

import builtins
import functools
import importlib
import operator
import os
import sys
import types
from collections.abc import Iterator
from typing import Any, BinaryIO, TypeVar

from . import wire

_T = TypeVar("_T")
_MODULE = "tests"
"""Name of the module that the tests run in."""
_CALLABLE = (types.FunctionType, types.MethodType, types.BuiltinMethodType, types.MethodWrapperType, functools.partial)


class NoVerdict(BaseException):
    """The program's reply cannot be read. Not an Exception: tests that catch those must not go on."""


class Exchange:
    """Asks the program, and serves what it asks of objects that the tests have handed to it."""

    def __init__(self) -> None:
        self._requests: BinaryIO
        self._replies = -1
        self._remotes: dict[int, Remote] = {}
        self._classes: dict[int, type[Exception]] = {}
        self._own: list[Any] = []
        self._own_numbers: dict[int, int] = {}
        self.named: set[str] = set()
        """Names of the program that the tests use."""

    def open(self, requests: BinaryIO, replies: int) -> None:
        """Say where the program is."""
        self._requests, self._replies = requests, replies

    def send(self, message: Any) -> None:
        """One line."""
        data = memoryview(wire.dumps(message))
        while data:
            data = data[os.write(self._replies, data) :]

    def names(self, wanted: list[str]) -> tuple[dict[str, Any], dict[str, type]]:
        """What the program defines of the names, and those of them that are types of the standard library."""
        reply = self._reply({"op": "names", "names": wanted})
        try:
            nodes, kinds = reply["v"]["nodes"], reply["v"]["types"]
            found = {name: wire.decode(node, self._find) for name, node in nodes.items()}
            return found, {name: wire.TYPES[kind] for name, kind in kinds.items() if name in found}
        except (KeyError, TypeError, AttributeError, wire.Unreadable, RecursionError):
            raise NoVerdict("the program's names cannot be read") from None

    def ask(self, op: str, number: int, *args: Any, name: str = "", named: dict[str, Any] | None = None) -> Any:
        """One request and its answer. Containers among the arguments are changed as the program has changed them.

        Raises what the program raised.
        """
        known = wire.Containers(growing=True)
        a = [wire.encode(value, self.node, known) for value in args]
        k = {key: wire.encode(value, self.node, known) for key, value in (named or {}).items()}
        known.growing = False
        reply = self._reply({"op": op, "h": number, "name": name, "a": a, "k": k})
        try:
            for changed, node in reply.get("m", ()):
                wire.refill(known.objects[changed], node, self._find, known)
            if "v" in reply:
                return wire.decode(reply["v"], self._find, known)
            if "e" in reply:
                error = self._exception(*reply["e"])
            elif reply.get("stop") is True and name == "next":
                error = StopIteration()
            else:
                raise wire.Unreadable("not a reply")
        except (wire.Unreadable, RecursionError, MemoryError, TypeError, ValueError, IndexError, KeyError) as why:
            raise NoVerdict(f"what the program returned is no plain data ({why})") from None
        raise error

    def _reply(self, request: Any) -> dict[str, Any]:
        self.send(request)
        while True:
            try:
                reply = wire.loads(self._requests.readline())
                if not isinstance(reply, dict):
                    raise wire.Unreadable("not a reply")
            except (wire.Unreadable, RecursionError, MemoryError) as error:
                raise NoVerdict(f"the program's reply cannot be read ({error})") from None
            if "do" not in reply:
                return reply
            self.send(self._serve(reply))

    # --- what the program may do with objects of the tests ----------------------------------------------------------

    def node(self, value: Any) -> Any:
        """The node of an object that is no plain data."""
        if isinstance(value, Remote):
            return {"h": _number(value)}
        if isinstance(value, type) and "_program_class" in vars(value):
            return {"h": vars(value)["_program_class"]}
        if isinstance(value, Exception) and "_program_object" in vars(value):
            return {"h": vars(value)["_program_object"]}
        named = _in_library(value)
        if named is not None:
            return {"h": named}
        if id(value) not in self._own_numbers:
            self._own_numbers[id(value)] = len(self._own)
            self._own.append(value)
        return {"h": {"theirs": self._own_numbers[id(value)]}}

    def _serve(self, request: dict[str, Any]) -> Any:
        try:
            target = self._own[_of(int, request["k"])]
            args = [wire.decode(node, self._find) for node in request["a"]]
            named = {_of(str, key): wire.decode(node, self._find) for key, node in request["n"].items()}
            do = request["do"]
        except (wire.Unreadable, RecursionError, MemoryError, LookupError, TypeError, AttributeError) as error:
            raise NoVerdict(f"the program asks for what is not there ({error})") from None
        try:
            return {"v": wire.encode(_done(do, target, args, named), self.node)}
        except StopIteration:
            return {"stop": True} if do == "next" else {"e": ["RuntimeError", ["StopIteration was raised"], None]}
        except Exception as error:
            known = (kind.__name__ for kind in type(error).__mro__ if f"builtins.{kind.__name__}" in wire.TYPES)
            args = [wire.encode(value, self.node) for value in error.args]
            return {"e": [next(known), args, vars(error).get("_program_object")]}

    # --- what the program's nodes stand for -------------------------------------------------------------------------

    def _find(self, named: Any) -> Any:
        if isinstance(named, dict):
            return self._own[_of(int, named["theirs"])] if "theirs" in named else self._class(named)
        number, kind = named if isinstance(named, list) else (named, "")
        if _of(int, number) not in self._remotes:
            self._remotes[number] = Remote(self, number, _of(str, kind))
        return self._remotes[number]

    def _class(self, told: Any) -> type[Exception]:
        """A stand-in for an exception class.

        Never for one that ends a loop (StopIteration: `all(map(f, xs))` would be true at once) or a process.
        """
        if isinstance(told, str):
            kind = getattr(builtins, told, None)
            right = isinstance(kind, type) and issubclass(kind, Exception)
            ends = StopIteration | StopAsyncIteration | UnicodeError | BaseExceptionGroup
            return kind if right and not issubclass(kind, ends) else RuntimeError  # type: ignore[arg-type, return-value]
        number, name = _of(int, told["class"]), _of(str, told["name"])
        if number not in self._classes:
            bases = tuple(dict.fromkeys(self._class(base) for base in told["bases"])) or (RuntimeError,)
            self._classes[number] = type(name, bases, _stand_in(self, number))
        return self._classes[number]

    def _exception(self, kind: Any, text: Any, number: Any, arguments: Any) -> Exception:
        found = self._class(kind)
        args = [_of(str, text)]
        if arguments:
            args = wire.decode(arguments, self._find)
        if "_program_class" not in vars(found):
            try:
                return found(*args)
            except Exception:
                return found(text) if found is not RuntimeError else RuntimeError()
        error = found.__new__(found)
        error.args = tuple(args)
        vars(error).update(_program_object=_of(int, number), _program_text=text)
        return error


EXCHANGE = Exchange()
"""Of this process."""


def _in_library(value: Any) -> list[str] | None:
    """Module and name of a function of the standard library: the program takes its own."""
    module, name = getattr(value, "__module__", None), getattr(value, "__qualname__", None)
    owner = getattr(value, "__objclass__", None)  # of a method, such as `str.upper`
    module = module or getattr(owner, "__module__", None)
    if not isinstance(module, str) or not isinstance(name, str) or module.partition(".")[0] not in _LIBRARY:
        return None
    try:
        same = operator.attrgetter(name)(importlib.import_module(module)) is value
    except Exception:
        return None
    return [module, name] if same else None


_LIBRARY = sys.stdlib_module_names - {"this", "antigravity"}


def _done(do: str, target: Any, args: list[Any], named: dict[str, Any]) -> Any:
    """What the program may do: call functions that it was handed, draw from iterators, use objects of tests' classes.

    Names that begin with an underscore stay closed: they lead to the tests themselves.
    """
    of_tests = type(target).__module__ == _MODULE
    if do == "call" and (of_tests or isinstance(target, _CALLABLE) or getattr(target, "__module__", "") == _MODULE):
        return target(*args, **named)
    if do == "iter" and (of_tests or hasattr(target, "__next__")):
        return iter(target)
    if do == "next" and hasattr(target, "__next__"):
        return next(target)
    if do in ("get", "set") and of_tests and isinstance(args[0], str) and not args[0].startswith("_"):
        return getattr(target, args[0]) if do == "get" else setattr(target, args[0], args[1])
    raise TypeError(f"a {type(target).__name__} of the tests cannot be used so")


def _stand_in(exchange: Exchange, number: int) -> dict[str, Any]:
    """Body of the stand-in for an exception class of the program."""

    def init(self: Any, *args: Any, **named: Any) -> None:
        made = exchange.ask("call", number, *args, named=named)
        vars(self)["_program_object"] = _number(made)
        vars(self)["_program_text"] = str(made)

    def getattribute(self: Any, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return exchange.ask("do", vars(self)["_program_object"], name, name="get")

    return {
        "_program_class": number,
        "__init__": init,
        "__getattr__": getattribute,
        "__str__": lambda self: vars(self).get("_program_text", ""),
    }


class Remote:
    """An object that stays with the program: a function, a class, an iterator, an instance.

    What it says of itself (length, truth, text, items) comes as plain data. It is equal to nothing that is the tests'.
    """

    def __init__(self, exchange: Exchange, number: int, kind: str):
        vars(self).update(_exchange=exchange, _number=number, _kind=kind)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call it there."""
        return vars(self)["_exchange"].ask("call", _number(self), *args, named=kwargs)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _do(self, "get", name)

    def __setattr__(self, name: str, value: Any) -> None:
        _do(self, "set", name, value)

    def __getitem__(self, key: Any) -> Any:
        return _do(self, "getitem", key)

    def __setitem__(self, key: Any, value: Any) -> None:
        _do(self, "setitem", key, value)

    def __delitem__(self, key: Any) -> None:
        _do(self, "delitem", key)

    def __iter__(self) -> Iterator[Any]:
        value = _do(self, "iter")
        return value if isinstance(value, Remote) else iter(value)

    def __next__(self) -> Any:
        return _do(self, "next")

    def __len__(self) -> int:
        return _of(int, _do(self, "len"))

    def __bool__(self) -> bool:
        return _of(bool, _do(self, "bool"))

    def __str__(self) -> str:
        return _of(str, _do(self, "str"))

    def __repr__(self) -> str:
        return _of(str, _do(self, "repr"))

    def __int__(self) -> int:
        return _of(int, _do(self, "int"))

    def __float__(self) -> float:
        return _of(float, _do(self, "float"))

    def __abs__(self) -> Any:
        return _do(self, "abs")

    def __neg__(self) -> Any:
        return _do(self, "neg")

    def __enter__(self) -> Any:
        return _do(self, "enter")

    def __exit__(self, *_: Any) -> None:
        _do(self, "exit")

    def __instancecheck__(self, value: Any) -> bool:
        return isinstance(value, Remote) and _of(bool, _do(self, "isinstance", value))

    def __hash__(self) -> int:
        return _of(int, _do(self, "hash")) if _named(self) else hash(_number(self))

    def __eq__(self, other: object) -> bool:
        if self is other or not isinstance(other, Remote):
            return self is other
        return _named(self) and _named(other) and _of(bool, _do(self, "eq", other))


def _operator(name: str) -> Any:
    """One between two objects of the program. With a value of the tests it is none: that may be what is expected."""

    def operate(self: Remote, other: object) -> Any:
        if not isinstance(other, Remote) or not _named(self) or not _named(other):
            return NotImplemented
        return _do(self, name, other)

    return operate


for _name in "lt le gt ge add sub mul truediv floordiv mod pow matmul and or xor".split():
    setattr(Remote, f"__{_name}__", _operator(_name))


def _do(remote: Remote, name: str, *args: Any) -> Any:
    return vars(remote)["_exchange"].ask("do", _number(remote), *args, name=name)


def _number(remote: Remote) -> int:
    number: int = vars(remote)["_number"]
    return number


def _named(remote: Remote) -> bool:
    """Whether it is an instance of a class that the tests name."""
    return vars(remote)["_kind"] in vars(remote)["_exchange"].named


def _of(kind: type[_T], value: Any) -> _T:
    if type(value) is not kind:
        raise TypeError(f"expected {kind.__name__}, not {type(value).__name__}")
    return value
