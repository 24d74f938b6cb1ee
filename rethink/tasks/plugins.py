"""Finding a user's function by `module:function`."""

from __future__ import annotations

import ast
import difflib
import hashlib
import importlib
import importlib.util
import inspect
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rethink.errors import UsageError


def load_function(reference: str, field: str, error: type[UsageError]) -> Callable[..., Any]:
    """Import the function that `module:function` or `path/to/file.py:function` names.

    Modules of the current directory are found too; a path is relative to it.

    Args:
        reference: `package.module:function`, or a file and a function.
        field: the recipe's field, for messages.
        error: class of the errors raised.

    Raises:
        UsageError: of the class `error`: not of that form, no such module, the module fails, or no such function.
    """
    module_name, colon, name = reference.rpartition(":")
    if not colon or not module_name or not name:
        raise error(
            f"{field} is {reference!r}, which does not name a function; write it as package.module:function or "
            "path/to/file.py:function, for example my_project.tasks:load"
        )
    load = _import_file if module_name.endswith(".py") else _import
    module = load(module_name, reference, field, error)
    found = module
    for attribute in name.split("."):
        if not hasattr(found, attribute):
            names = [n for n in dir(found) if not n.startswith("_") and callable(getattr(found, n))]
            near = difflib.get_close_matches(attribute, names, n=3) or names[:10]
            raise error(
                f"{field} names {reference!r}, but {module.__name__} ({getattr(module, '__file__', 'no file')}) has no "
                f"{attribute!r}; it has {', '.join(near) or 'no functions'}"
            )
        found = getattr(found, attribute)
    if not callable(found):
        raise error(f"{field} names {reference!r}, which is {type(found).__name__}, not a function; name a function")
    function: Callable[..., Any] = found
    return function


def source_files(reference: str) -> list[Path]:
    """The files of the code that `module:function` or `path/to/file.py:function` names, nothing of them run.

    The file of the module first, then those of the user's own that it imports, directly or not: what belongs to Python,
    to Rethink or to an installed package is left out. Empty where there is no such module or file.
    """
    name = reference.rpartition(":")[0]
    top = name.partition(".")[0]
    _look_here()
    first = Path(name).expanduser() if name.endswith(".py") else _file_of(name)
    if first is None or not first.is_file():
        return []
    found, waiting = [first.resolve()], [(first, "" if name.endswith(".py") else name)]
    while waiting:
        path, module = waiting.pop(0)
        for imported in _imports(path, module):
            file = _file_of(imported) if imported.partition(".")[0] == top or _is_own(imported) else None
            if file is not None and file.is_file() and file.resolve() not in found:
                found.append(file.resolve())
                waiting.append((file, imported))
    return found


def _imports(path: Path, module: str) -> list[str]:
    """Names of the modules that a file may import; `module`: its own, for imports relative to it."""
    try:
        tree = ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError):
        return []  # importing it says what is wrong
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    names: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            names += [base, *(f"{base}.{alias.name}" for alias in node.names)]
    return [name for name in names if name]


def _is_own(module: str) -> bool:
    """Whether a module is the user's: neither Python's nor Rethink's nor of an installed package."""
    top = module.partition(".")[0]
    file = None if top in sys.stdlib_module_names or top == "rethink" else _file_of(top)
    return file is not None and not any(part in ("site-packages", "dist-packages") for part in file.parts)


def _file_of(module: str) -> Path | None:
    """The Python file of a module; of a package, its `__init__.py`, or the folder where it has none."""
    try:
        spec = importlib.util.find_spec(module)
    except Exception:  # no such parent, or the parent fails: importing it says so
        return None
    if spec is None:
        return None
    if spec.origin is not None and spec.origin.endswith(".py"):
        return Path(spec.origin)
    return Path(next(iter(spec.submodule_search_locations))) if spec.submodule_search_locations else None


def _look_here() -> None:
    """Let modules of the current directory be found: a console script, unlike `python -m`, does not look there."""
    here = os.getcwd()
    if here not in sys.path and "" not in sys.path:
        sys.path.append(here)
        importlib.invalidate_caches()


def _import(module_name: str, reference: str, field: str, error: type[UsageError]) -> Any:
    _look_here()
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as missing:
        if missing.name and (module_name == missing.name or module_name.startswith(missing.name + ".")):
            raise error(
                f"{field} names {reference!r}, but there is no module {missing.name!r} in {os.getcwd()} or on the "
                "Python path; run from the folder that holds it, install it, or correct the name"
            ) from missing
        raise error(
            f"{field} names {reference!r}; importing {module_name} needs {missing.name!r}, which is not installed; "
            "install it into this environment"
        ) from missing
    except Exception as failed:
        raise error(
            f"{field} names {reference!r}; importing {module_name} raised {type(failed).__name__}: {failed}"
            f"{where_raised(failed)}; fix the module so that `python -c 'import {module_name}'` works"
        ) from failed


def _import_file(path: str, reference: str, field: str, error: type[UsageError]) -> Any:
    """The module of a file, under a name of its own: loaded once, whatever else is called like it."""
    where = os.path.realpath(path)
    name = f"rethink_file_{hashlib.blake2b(where.encode(), digest_size=8).hexdigest()}"
    if name in sys.modules:
        return sys.modules[name]
    if not os.path.isfile(where):
        raise error(f"{field} names {reference!r}, but there is no file {path!r} in {os.getcwd()}; correct the path")
    spec = importlib.util.spec_from_file_location(name, where)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as failed:
        del sys.modules[name]
        raise error(
            f"{field} names {reference!r}; loading {path} raised {type(failed).__name__}: {failed}"
            f"{where_raised(failed)}; fix the file so that `python {path}` works"
        ) from failed
    return module


def where_defined(function: Callable[..., Any]) -> str:
    """` (file.py:12)`, where a function begins; empty where that is not known."""
    code = getattr(inspect.unwrap(function), "__code__", None)
    return f" ({os.path.basename(code.co_filename)}:{code.co_firstlineno})" if code is not None else ""


def where_raised(failed: BaseException) -> str:
    """` (file.py:12)`, the innermost line of the traceback outside this package; empty where there is none."""
    place, trace = "", failed.__traceback__
    ours = os.path.dirname(os.path.dirname(__file__))
    while trace is not None:
        file = trace.tb_frame.f_code.co_filename
        if not file.startswith((ours, "<frozen")):
            place = f" ({os.path.basename(file)}:{trace.tb_lineno})"
        trace = trace.tb_next
    return place
