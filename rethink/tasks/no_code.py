"""Nothing of a text becomes Python code while sympy and math-verify work on it.

sympy makes code in two ways that an answer can reach. `lambdify` prints an expression as Python, with the names of its
symbols as they are, and executes that: for the numerical value of a sum, for example. And `Number("12")` goes through
`parse_expr`, which evaluates its text. Names and numbers of an answer may hold anything that LaTeX allows, so here a
name that is no identifier, a name that the function does not take, and a text that is neither a number nor a name are
refused.
"""

from __future__ import annotations

import contextlib
import importlib
import re
from collections.abc import Iterator
from contextvars import ContextVar
from functools import cache
from typing import Any

_inside: ContextVar[bool] = ContextVar("no_code", default=False)

_USERS = (
    "sympy.core.evalf",
    "sympy.polys.rootoftools",
    "sympy.polys.numberfields.utilities",
    "sympy.polys.numberfields.galois_resolvents",
    "sympy.solvers.solvers",
    "sympy.utilities.lambdify",
)
"""Modules that call `lambdify` by a name of their own."""
_HARMLESS = re.compile(
    r"\s*[-+]?\s*(?:(?:Integer|Float|Rational)\s*\(\s*'?[0-9.eE+\-]{1,1000}'?\s*\)|Symbol\s*\(\s*'\w{1,100}'\s*\))\s*"
)
"""What `parse_expr` makes of a number, and of a name."""


class WouldBeCode(NotImplementedError):
    """An expression holds a name or a text that must not become code."""


@contextlib.contextmanager
def no_code() -> Iterator[None]:
    """Within the block (in this thread or task) sympy refuses to make code of what it has not made itself.

    Raises:
        WouldBeCode: it was about to, where sympy does not handle that itself.
    """
    _install()
    token = _inside.set(True)
    try:
        yield
    finally:
        _inside.reset(token)


@cache
def _install() -> None:
    """Put the checks into sympy, once a process; they apply within `no_code` alone."""
    import sympy.physics.units  # noqa: F401 - sympy imports it late, and it reads its units' names by `parse_expr`
    from sympy.parsing import sympy_parser
    from sympy.printing.codeprinter import CodePrinter
    from sympy.utilities.lambdify import lambdify

    print_symbol = CodePrinter._print_Symbol

    def checked_symbol(self: Any, symbol: Any) -> Any:
        if _inside.get() and not str(symbol.name).isidentifier():
            raise WouldBeCode(f"the name {symbol.name[:40]!r} is no identifier")
        return print_symbol(self, symbol)

    def checked_lambdify(args: Any, expression: Any, *rest: Any, **options: Any) -> Any:
        if _inside.get():
            _check_names(args, expression)
        return lambdify(args, expression, *rest, **options)

    def checked_eval(code: Any, *spaces: Any) -> Any:
        if _inside.get() and not (isinstance(code, str) and _HARMLESS.fullmatch(code)):
            raise WouldBeCode(f"the text {str(code)[:40]!r} is neither a number nor a name")
        return eval(code, *spaces)

    CodePrinter._print_Symbol = checked_symbol
    for name in _USERS:
        importlib.import_module(name).lambdify = checked_lambdify  # type: ignore[attr-defined]
    sympy_parser.eval = checked_eval


def _check_names(args: Any, expression: Any) -> None:
    from sympy import MatrixSymbol, Symbol
    from sympy.core.function import AppliedUndef

    taken = set(args) if isinstance(args, list | tuple | set) else {args}
    for part in expression if isinstance(expression, list | tuple) else [expression]:
        if not hasattr(part, "atoms"):
            raise WouldBeCode(f"a {type(part).__name__} in an expression")
        free = part.atoms(Symbol) - taken
        if free or part.atoms(AppliedUndef) or part.atoms(MatrixSymbol):
            raise WouldBeCode(f"names beside the arguments of a function: {str(free)[:40]}")
