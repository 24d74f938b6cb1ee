"""Finding a user's function by `module:function`."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import inspect
import os
import sys
from collections.abc import Callable
from typing import Any

from rethink.errors import UsageError


def load_function(reference: str, field: str, error: type[UsageError]) -> Callable[..., Any]:
    """Import the function that `module:function` names; modules of the current directory are found too.

    Args:
        reference: `package.module:function`.
        field: the recipe's field, for messages.
        error: class of the errors raised.

    Raises:
        UsageError: of the class `error`: not of that form, no such module, the module fails, or no such function.
    """
    module_name, colon, name = reference.partition(":")
    if not colon or not module_name or not name:
        raise error(
            f"{field} is {reference!r}, which does not name a function; write it as package.module:function, "
            "for example my_project.tasks:load"
        )
    module = _import(module_name, reference, field, error)
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


def _import(module_name: str, reference: str, field: str, error: type[UsageError]) -> Any:
    here = os.getcwd()
    if here not in sys.path and "" not in sys.path:
        sys.path.append(here)  # a console script, unlike `python -m`, does not look in the current directory
        importlib.invalidate_caches()
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as missing:
        if missing.name and (module_name == missing.name or module_name.startswith(missing.name + ".")):
            raise error(
                f"{field} names {reference!r}, but there is no module {missing.name!r} in {here} or on the Python "
                "path; run from the folder that holds it, install it, or correct the name"
            ) from missing
        raise error(
            f"{field} names {reference!r}; importing {module_name} needs {missing.name!r}, which is not installed; "
            "install it into this environment"
        ) from missing
    except Exception as failed:
        raise error(
            f"{field} names {reference!r}; importing {module_name} raised {type(failed).__name__}: {failed}"
            f"{where_raised(failed)}; mend the module so that `python -c 'import {module_name}'` works"
        ) from failed


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
