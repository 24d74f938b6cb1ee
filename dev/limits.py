"""Finds functions and files that are too long, and functions with too many parameters: `python dev/limits.py`.

What is listed as known is to be brought down; the list only gets shorter.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MOST_LINES, MOST_FUNCTION_LINES, MOST_PARAMETERS = 500, 60, 7
KNOWN: dict[str, int] = {}


def over(root: Path) -> Iterator[tuple[str, int, int]]:
    """(what, its size, the most that is allowed), of each file, function and list of parameters that is too long."""
    files = [
        path for folder in ("rethink", "tests", "benchmarks", "dev", "examples") for path in (root / folder).rglob("*")
    ]
    for path in sorted(path for path in files if path.suffix in (".py", ".cpp", ".h", ".js", ".css")):
        where, text = path.relative_to(root).as_posix(), path.read_text("utf-8")
        if (lines := text.count("\n")) > MOST_LINES:
            yield where, lines, MOST_LINES
        if path.suffix != ".py":
            continue
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                named = [*node.args.posonlyargs, *node.args.args]
                parameters = len(named) + len(node.args.kwonlyargs) - (bool(named) and named[0].arg in ("self", "cls"))
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                for size, most in ((lines, MOST_FUNCTION_LINES), (parameters, MOST_PARAMETERS)):
                    if size > most:
                        yield f"{where} {node.name}", size, most


def main(root: Path = ROOT) -> int:
    """Print what is over its limit and not known, or known and no longer over it."""
    found = {what: (size, most) for what, size, most in over(root)}
    new = {what: sizes for what, sizes in found.items() if sizes[0] > KNOWN.get(what, sizes[1])}
    for what, (size, most) in new.items():
        print(f"{what}: {size}, and at most {most} are allowed")
    mended = [what for what in KNOWN if what not in found]
    for what in mended:
        print(f"{what}: within its limit now; take it out of KNOWN")
    return int(bool(new or mended))


if __name__ == "__main__":
    sys.exit(main())
