"""Writes the layers into the pages that draw them: `python dev/layers.py` (or `--check`: exit 1 where one is stale).

The layers are defined once, in `pyproject.toml` (import-linter's contract). The purpose of a package is the first line
of its docstring.
"""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
WIDTH = 14


def layers() -> list[list[str]]:
    """Packages of each layer, from the top; those in parentheses are not written yet."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["importlinter"]["contracts"]
    listed = next(contract["layers"] for contract in contracts if contract["id"] == "layers")
    return [re.split(r" [|:] ", layer) for layer in listed if not layer.startswith("(")]


def purpose(name: str) -> str:
    """The first line of a module's docstring, as an entry of a list."""
    path = ROOT / "rethink" / name
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    text = (ast.get_docstring(ast.parse(file.read_text("utf-8"))) or "").split("\n\n")[0]
    first = re.split(r"\.\s", " ".join(text.split()) + " ")[0]
    return first if re.match(r"[A-Z]{2}", first) else first[0].lower() + first[1:]


def rooms(name: str) -> list[str]:
    """The folders in a package, an entry each."""
    found = []
    for path in sorted((ROOT / "rethink" / name).glob("*/__init__.py")):
        room = path.parent.name
        found.append(f"    {room + '/':<{WIDTH}}{kind_summary(path) if name == 'kinds' else purpose(f'{name}/{room}')}")
    return found


def kind_summary(path: Path) -> str:
    """The `summary` of a kind's record."""
    tree = ast.parse(path.read_text("utf-8"))
    words = [node.value for node in ast.walk(tree) if isinstance(node, ast.keyword) and node.arg == "summary"]
    return str(ast.literal_eval(words[0]))


def pages() -> dict[str, str]:
    """The text between the markers of each page."""
    rows = [(name, (ROOT / "rethink" / name).is_dir()) for layer in layers() for name in layer]
    tree = []
    for name, folder in rows:
        tree.append(f"  {name + '/' if folder else name + '.py':<{WIDTH}}{purpose(name)}")
        tree += rooms(name)
    table = [f"| `{name}` | {purpose(name)} |" for name, _ in rows]
    return {
        "README.md": "\n".join(["```", "rethink/", *tree, "```"]),
        "docs/architecture.md": "\n".join(["| layer | what it is |", "|---|---|", *table]),
        "CONTRIBUTING.md": "`" + " > ".join(" \\| ".join(layer) for layer in layers()).replace("\\|", "|") + "`",
    }


def main(arguments: list[str]) -> int:
    """Write the pages, or look whether they are current."""
    stale = []
    for name, wanted in pages().items():
        path = ROOT / name
        before = path.read_text("utf-8")
        after, found = re.subn(
            r"(<!-- layers: written by dev/layers.py -->\n).*?(\n<!-- /layers -->)",
            lambda match, body=wanted: match[1] + body + match[2],
            before,
            flags=re.DOTALL,
        )
        if not found:
            raise SystemExit(f"{name} has no markers for its layers")
        if after != before:
            stale.append(name)
            if "--check" not in arguments:
                path.write_text(after, "utf-8")
    if "--check" in arguments and stale:
        print(f"stale: {', '.join(stale)}; run `make docs`")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
