"""Comparing an answer with the gold: exact numbers, and mathematics by math-verify. Answers are hostile input."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Sequence
from fractions import Fraction

from rethink.recipe.schema import TaskSource

Checker = Callable[[str, str | None], float | None]
"""(answer, gold) -> 1, 0, or None where the gold cannot be read. May raise."""

MAX_NUMBER = 100
"""Characters of a number; longer ones are wrong (reading digits takes quadratic time)."""
MAX_EXPRESSION = 400
"""Characters of a mathematical answer; longer ones are wrong."""
MATH_SECONDS = 5
"""Time for one comparison by math-verify, where it can be limited (the main thread)."""

_NUMBER = re.compile(r"[-+]?(?:\d{1,3}(?:,\d{3})+|\d+)?(?:\.\d+)?(?:/\d+)?")
_ANY_NUMBER = re.compile(r"(?<![\w.,])[-+]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:/\d+)?(?!,?\d)")
# A power of a power, or one with an exponent of four digits: evaluating it could outlast the universe.
_EXPLOSIVE = re.compile(r"(?:\^|\*\*)[^=<>,;]{0,40}(?:\^|\*\*)|(?:\^|\*\*)\s*[({]*\s*[-+]?\d{4}|!|\\cdots|\d{60}")


def exact_number(answer: str, gold: str | None) -> float | None:
    """1 where both are the same number exactly (`1,000` = `1000` = `1000.0`; `1/2` = `0.5`).

    A leading currency sign and a trailing `%`, unit or full stop are allowed where the text holds one number only.
    """
    right = None if gold is None else read_number(gold)
    if right is None:
        return None
    return float(read_number(answer) == right)


def read_number(text: str) -> Fraction | None:
    """The number that a text is, or the only one that it holds; None where there is none or more than one."""
    plain = text.strip()
    if not _is_number(plain):
        if len(plain) > MAX_EXPRESSION:
            return None
        found = _ANY_NUMBER.findall(plain)
        if len(found) != 1:
            return None
        plain = found[0].rstrip(",")
    if len(plain) > MAX_NUMBER:
        return None
    top, _, bottom = plain.replace(",", "").partition("/")
    try:
        return Fraction(top) / Fraction(bottom or "1")
    except (ValueError, ZeroDivisionError):
        return None


def _is_number(text: str) -> bool:
    return any(char.isdigit() for char in text[:MAX_NUMBER]) and _NUMBER.fullmatch(text[: MAX_NUMBER + 1]) is not None


def math_equal(answer: str, gold: str | None) -> float | None:
    """1 where math-verify finds both equal (LaTeX or plain expressions, sets, intervals, …).

    Answers that are overlong or could take unbounded time to evaluate (towers of powers, factorials) are wrong.

    Raises:
        TimeoutError: the comparison took longer than `MATH_SECONDS`.
    """
    from math_verify import parse, verify

    if gold is None:
        return None
    # math-verify limits its time by a signal, which only the main thread can receive.
    seconds = MATH_SECONDS if threading.current_thread() is threading.main_thread() else None
    right = parse(_as_latex(gold), parsing_timeout=seconds)
    if not right:
        return None
    if len(answer) > MAX_EXPRESSION or (_EXPLOSIVE.search(answer) and answer.strip() != gold.strip()):
        return 0.0
    if answer.strip() == gold.strip():
        return 1.0
    found = parse(_as_latex(answer), parsing_timeout=seconds)
    return float(bool(found) and bool(verify(right, found, timeout_seconds=seconds)))


def _as_latex(text: str) -> str:
    """math-verify reads LaTeX between dollar signs or in a box; a bare answer is put between them."""
    return text if "$" in text or "\\boxed" in text else f"${text}$"


def choose_checker(source: TaskSource, golds: Sequence[str | None]) -> Checker:
    """The checker that the recipe names; `auto`: exact numbers where every gold is one, else math-verify."""
    if source.checker == "exact-number":
        return exact_number
    if source.checker == "math-verify":
        return math_equal
    numbers = all(gold is None or _is_number(gold.strip()) for gold in golds)
    return exact_number if numbers else math_equal
