"""Small faults for Python source, each as one replacement of text: what a mutation test puts into the code.

Left alone are annotations, decorators, docstrings and what only words an error: tests need not notice those.
"""

from __future__ import annotations

import ast
import copy
import hashlib
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice, zip_longest

COMPARISONS: dict[type[ast.cmpop], tuple[type[ast.cmpop], ...]] = {
    ast.Lt: (ast.LtE, ast.GtE),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
}
ARITHMETIC: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Div,
    ast.Mod: ast.Mult,
    ast.Pow: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
    ast.LShift: ast.RShift,
    ast.RShift: ast.LShift,
}
UNORDERED = frozenset("isinstance getattr hasattr max min suppress transpose".split())
"""Calls that are the same, or never run, with their first two arguments exchanged."""
WRAPPERS = set("abs round sorted reversed sqrt log exp log1p expm1 int float min max len".split()) - {"len"}
"""Functions that a mutant leaves out: `abs(x)` becomes `x`."""
METHODS = set(
    "abs exp log sqrt square clamp clamp_min clamp_max detach float double neg strip lstrip rstrip lower upper "
    "casefold removesuffix removeprefix contiguous clone copy".split()
)
"""Methods that a mutant leaves out: `x.strip()` becomes `x`."""
TWINS = {
    a: b
    for pair in ("min max", "any all", "floor ceil", "startswith endswith", "amin amax", "argmin argmax", "zeros ones")
    for a, b in (pair.split(), reversed(pair.split()))
}
_SKIPPED_FIELDS = {"annotation", "returns", "decorator_list", "type_params", "msg"}

Change = tuple[str, ast.AST, str]
"""Kind, the node that is replaced, what stands there instead."""


@dataclass(frozen=True, slots=True)
class Mutant:
    """One fault in one file."""

    path: str
    """Of the file, from the root of the repository."""
    line: int
    """From 1, where the replaced text begins."""
    kind: str
    where: str
    """Qualified name of the function around it; empty at the top of a file."""
    start: int
    """First byte of what is replaced."""
    end: int
    before: str
    after: str
    id: str
    """The same wherever the function stands in its file, so that a verdict outlives edits elsewhere."""

    def apply(self, source: bytes) -> bytes:
        """The source with the fault in it."""
        return source[: self.start] + self.after.encode() + source[self.end :]


def mutants(path: str, source: bytes) -> list[Mutant]:
    """Every fault that can be put into a file, in order; a few do not compile (`compiles`).

    Raises:
        SyntaxError: the file itself is not Python.
    """
    starts = [0]
    for line in source.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    found: list[Mutant] = []
    seen: dict[str, int] = {}
    for where, (kind, node, after) in _changes(ast.parse(source), ""):
        assert isinstance(node, ast.expr | ast.stmt)
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        start = starts[node.lineno - 1] + node.col_offset
        end = starts[node.end_lineno - 1] + node.end_col_offset
        before = source[start:end].decode()
        name = "\0".join((path, where, kind, before, after))
        seen[name] = seen.get(name, 0) + 1
        identity = hashlib.sha256(f"{name}\0{seen[name]}".encode()).hexdigest()[:10]
        mutant = Mutant(path, node.lineno, kind, where, start, end, before, after, identity)
        if after != before:
            found.append(mutant)
    return found


def sample(
    candidates: Sequence[Mutant], number: int, seed: int, fits: Callable[[Mutant], bool] = lambda mutant: True
) -> list[Mutant]:
    """`number` of the mutants that fit: each kind in turn, so that the many constants do not crowd out the rest."""
    generator = random.Random(seed)
    by_kind: dict[str, list[Mutant]] = {}
    for mutant in candidates:
        by_kind.setdefault(mutant.kind, []).append(mutant)
    for one in by_kind.values():
        generator.shuffle(one)
    order = sorted(by_kind)
    generator.shuffle(order)
    turns = chain.from_iterable(zip_longest(*(by_kind[kind] for kind in order)))
    return list(islice((mutant for mutant in turns if mutant is not None and fits(mutant)), number))


def compiles(source: bytes) -> bool:
    """Whether it is Python."""
    try:
        compile(source, "mutant", "exec", dont_inherit=True)
    except (SyntaxError, ValueError):
        return False
    return True


def _changes(node: ast.AST, where: str) -> Iterator[tuple[str, Change]]:
    if isinstance(node, ast.If) and "TYPE_CHECKING" in _text(node.test):
        return
    for rule in RULES:
        for change in rule(node):
            yield where, change
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        where = f"{where}.{node.name}".lstrip(".")
    if isinstance(node, ast.JoinedStr | ast.Raise):
        return
    for field, value in ast.iter_fields(node):
        if field not in _SKIPPED_FIELDS:
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.AST):
                    yield from _changes(child, where)


# --- rules: each names the changes of one node ----------------------------------------------------------------------


def _comparison(node: ast.AST) -> Iterator[Change]:
    if isinstance(node, ast.Compare):
        for i, op in enumerate(node.ops):
            for other in COMPARISONS[type(op)]:
                ops = [*node.ops[:i], other(), *node.ops[i + 1 :]]
                yield "comparison", node, _expression(_with(node, ops=ops))


def _arithmetic(node: ast.AST) -> Iterator[Change]:
    if isinstance(node, ast.BinOp) and type(node.op) in ARITHMETIC:
        # Texts and lists know no other operation: such a mutant fails wherever it is reached and shows nothing.
        plain = (ast.List, ast.ListComp, ast.Tuple, ast.JoinedStr)
        if not any(isinstance(side, plain) or _is_text(side) for side in (node.left, node.right)):
            yield "arithmetic", node, _expression(_with(node, op=ARITHMETIC[type(node.op)]()))
    if isinstance(node, ast.AugAssign) and type(node.op) in ARITHMETIC:
        yield "arithmetic", node, _text(_with(node, op=ARITHMETIC[type(node.op)]()))
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub) and not isinstance(node.operand, ast.Constant):
        yield "arithmetic", node, _expression(node.operand)


def _constant(node: ast.AST) -> Iterator[Change]:
    if isinstance(node, ast.Constant):
        if isinstance(node.value, bool):
            yield "constant", node, str(not node.value)
        elif isinstance(node.value, int | float):
            yield "constant", node, f"({node.value + 1!r})"
            if isinstance(node.value, int):
                yield "constant", node, f"({node.value - 1!r})"


def _boolean(node: ast.AST) -> Iterator[Change]:
    if isinstance(node, ast.BoolOp):
        other = ast.Or() if isinstance(node.op, ast.And) else ast.And()
        yield "boolean", node, _expression(_with(node, op=other))
        for i in range(len(node.values)):
            rest = [*node.values[:i], *node.values[i + 1 :]]
            yield "operand", node, _expression(rest[0] if len(rest) == 1 else _with(node, values=rest))


def _condition(node: ast.AST) -> Iterator[Change]:
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        yield "condition", node, _expression(node.operand)
    tests = [node.test] if isinstance(node, ast.If | ast.While | ast.IfExp) else []
    tests += node.ifs if isinstance(node, ast.comprehension) else []
    for test in tests:
        if not isinstance(test, ast.Compare | ast.BoolOp | ast.UnaryOp | ast.Constant):
            yield "condition", test, f"(not {_text(test)})"


def _statement(node: ast.AST) -> Iterator[Change]:
    stores = isinstance(node, ast.Assign) and all(isinstance(t, ast.Attribute | ast.Subscript) for t in node.targets)
    calls = isinstance(node, ast.Expr) and isinstance(node.value, ast.Call | ast.Await)
    if stores or calls or isinstance(node, ast.AugAssign | ast.Raise | ast.Continue | ast.Break | ast.Delete):
        yield "statement", node, "pass"
    if isinstance(node, ast.Return) and node.value is not None and _text(node.value) != "None":
        yield "return", node, "return None"


def _call(node: ast.AST) -> Iterator[Change]:
    if not isinstance(node, ast.Call):
        return
    name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    plain = [a for a in node.args if not isinstance(a, ast.Starred)]
    if name in WRAPPERS and plain and not (isinstance(node.func, ast.Attribute) and name not in ("sqrt", "log", "exp")):
        for argument in plain[:2]:
            yield "wrapper", node, _expression(argument)
    if isinstance(node.func, ast.Attribute) and name in METHODS:
        yield "wrapper", node, _text(node.func.value)
    if name in TWINS:
        twin: ast.expr = ast.Name(TWINS[name])
        if isinstance(node.func, ast.Attribute):
            twin = _with(node.func, attr=TWINS[name])
        yield "twin", node, _text(_with(node, func=twin))
    # A class's keywords are mostly fields without a default: leaving one out fails wherever it is reached.
    if not name[:1].isupper():
        for i, keyword in enumerate(node.keywords):
            if keyword.arg is not None:
                yield "keyword", node, _text(_with(node, keywords=[*node.keywords[:i], *node.keywords[i + 1 :]]))
    if len(plain) >= 2 and plain == node.args and name not in UNORDERED:
        yield "arguments", node, _text(_with(node, args=[node.args[1], node.args[0], *node.args[2:]]))


RULES: tuple[Callable[[ast.AST], Iterator[Change]], ...] = (
    _comparison,
    _arithmetic,
    _constant,
    _boolean,
    _condition,
    _statement,
    _call,
)


def _with(node: ast.AST, **fields: object) -> ast.AST:
    other = copy.copy(node)
    for name, value in fields.items():
        setattr(other, name, value)
    return other


def _is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str | bytes)


def _text(node: ast.AST) -> str:
    return ast.unparse(node)


def _expression(node: ast.AST) -> str:
    """In brackets, so that what stands beside it cannot take part of it."""
    return f"({_text(node)})"
