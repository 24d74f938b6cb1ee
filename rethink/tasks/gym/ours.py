"""Our own checkers for reasoning-gym tasks whose scorers evaluate the answer as Python or accept wrong answers.

    judge(said, entry) -> 0 to 1, or None where the entry has not what it takes

`said` is hostile; an entry (`question`, `answer`, `metadata`) may come from a file of a stranger. Nothing here
evaluates either; all work is bounded by the length of the text.
"""

from __future__ import annotations

import cmath
import contextlib
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from rethink.tasks.checkers import exact_number
from rethink.tasks.gym.arithmetic import compute
from rethink.tasks.gym.formulas import read_formula
from rethink.tasks.gym.literals import Value, as_text, read_list

Entry = Mapping[str, Any]
LISTED = 0.1
"""For the right matrix or text given as a list: reasoning-gym's own partial credit."""
LISTED_BOARD = 0.5
"""For the right board of queens given as a list."""
ROUNDING = Fraction(1, 2000)
"""Share of a probability by which it may be rounded. The library's own tolerance, 0.0001 whatever the probability,
takes 0 for 1/16384."""
MAX_COMPLEX = 200
"""Characters of a complex number."""
NEAR = 1e-6
"""Relative difference above which two derivatives are not the same; below it, sympy decides."""


@dataclass(frozen=True, slots=True)
class Ours:
    """One judge."""

    judge: Callable[[str, Entry], float | None]
    why: str
    """Why the library's own scorer does not judge."""
    needs_metadata: bool = False
    """Whether the entry's metadata is looked at, so that the library must make the problem again."""


# --- numbers ---------------------------------------------------------------------------------------------------------


def countdown(said: str, entry: Entry) -> float | None:
    """1 for an expression that uses each given number exactly once and gives the target."""
    return _uses_all(said, entry["metadata"].get("numbers"), entry["metadata"].get("target"))


def puzzle24(said: str, entry: Entry) -> float | None:
    """1 for an expression that uses each of the four given numbers exactly once and gives 24."""
    return _uses_all(said, entry["metadata"].get("numbers"), 24)


def _uses_all(said: str, numbers: Any, target: Any) -> float | None:
    if not isinstance(numbers, list) or not numbers or not all(type(number) is int for number in numbers):
        return None
    if type(target) is not int:
        return None
    found = compute(said)
    if found is None or found.value != target or found.said not in (None, target):
        return 0.0
    return float(sorted(found.numbers) == sorted(numbers))


def gold_number(said: str, entry: Entry) -> float | None:
    """1 for the gold number exactly."""
    return exact_number(said, entry["answer"])


_WHOLE = re.compile(r"[-+]?(?:0[xX][0-9a-fA-F]{1,40}|0[bB][01]{1,160}|0[oO][0-7]{1,60}|[0-9]{1,60})")


def same_integer(said: str, entry: Entry) -> float | None:
    """1 for the same whole number, decimal or with the prefix of its base (`0x1f`)."""
    gold, found = _whole(entry["answer"]), _whole(said)
    return None if gold is None else float(found == gold)


def _whole(text: Any) -> int | None:
    text = text.strip() if isinstance(text, str) else ""
    if not _WHOLE.fullmatch(text):
        return None
    digits = text.lstrip("+-")
    # `int(…, 0)` refuses decimal numbers with zeros before them, as Python does in its source.
    value = int(digits, 10 if digits.isdigit() else 0)
    return -value if text.startswith("-") else value


_RATIO = re.compile(r"[-+]?(?:[0-9]{1,40}(?:\.[0-9]{0,40})?|\.[0-9]{1,40})(?:[eE]-?[0-9]{1,2}|\s?/\s?[0-9]{1,40})?")


def probability(said: str, entry: Entry) -> float | None:
    """1 for the gold probability, as a decimal or a ratio, to about four digits."""
    gold, found = _ratio(entry["answer"]), _ratio(said)
    if gold is None:
        return None
    return float(found is not None and abs(found - gold) <= ROUNDING * gold)


def _ratio(text: Any) -> Fraction | None:
    text = text.strip() if isinstance(text, str) else ""
    if not _RATIO.fullmatch(text):
        return None
    top, _, bottom = text.partition("/")
    with contextlib.suppress(ZeroDivisionError):
        return Fraction(top.strip()) / Fraction(bottom.strip() or "1")
    return None


_FRACTION = re.compile(r"(-?[0-9]{1,40})\s*/\s*([0-9]{1,40})")
_LATEX_FRACTION = re.compile(r"(-?)\\d?frac\s*\{\s*(-?[0-9]{1,40})\s*\}\s*\{\s*([0-9]{1,40})\s*\}")


def simplified_fraction(said: str, entry: Entry) -> float | None:
    r"""1 for the simplified numerator and denominator themselves, as `3/4`, `\frac{3}{4}` or `\dfrac{3}{4}`."""
    gold, found = _fraction(entry["answer"]), _fraction(said)
    return None if gold is None else float(found == gold)


def _fraction(text: Any) -> tuple[int, int] | None:
    text = text.strip().strip("$").strip() if isinstance(text, str) else ""
    if match := _FRACTION.fullmatch(text):
        return int(match.group(1)), int(match.group(2))
    if match := _LATEX_FRACTION.fullmatch(text):
        return int(match.group(2)) * (-1 if match.group(1) else 1), int(match.group(3))
    return None


_REAL = r"(?:[0-9]{1,30}(?:\.[0-9]{0,30})?|\.[0-9]{1,30})"
_COMPLEX = tuple(
    re.compile(form, re.IGNORECASE)
    for form in (
        rf"(?P<real>[-+]?{_REAL})(?P<imaginary>)",
        rf"(?P<real>)(?P<imaginary>[-+]?(?:{_REAL})?)\*?[ij]",
        rf"(?P<real>[-+]?{_REAL})(?P<imaginary>[-+](?:{_REAL})?)\*?[ij]",
    )
)


def complex_number(said: str, entry: Entry) -> float | None:
    """`exp(-distance)` from the gold in the complex plane, as the task defines it; 0 for what is no number."""
    gold, found = _complex(entry["answer"]), _complex(said)
    if gold is None or found is None:
        return None if gold is None else 0.0
    distance = abs(found - gold)
    return math.exp(-distance) if distance > 0 else 1.0


def _complex(text: Any) -> complex | None:
    text = text.strip().replace("−", "-") if isinstance(text, str) else ""
    if len(text) > MAX_COMPLEX:
        return None
    text = re.sub(r"\s*([-+*()])\s*", r"\1", text)
    while len(text) > 1 and text[0] == "(" and text[-1] == ")":
        text = text[1:-1]
    match = next((match for form in _COMPLEX if (match := form.fullmatch(text))), None)
    if match is None:
        return None
    has_unit = text[-1] in "ijIJ"
    imaginary = match["imaginary"] + ("1" if has_unit and not match["imaginary"].strip("+-") else "")
    return complex(float(match["real"] or 0), float(imaginary or 0))


# --- lists and boards ------------------------------------------------------------------------------------------------


def matrix_text(said: str, entry: Entry) -> float | None:
    """1 for the rows as text; a little for the same matrix as a list of lists."""
    return _as_text_or_list(said.strip(), str(entry["answer"]).strip(), _rows)


def spiral(said: str, entry: Entry) -> float | None:
    """1 for the numbers with spaces between them; a little for them as a list."""
    return _as_text_or_list(said.strip(), str(entry["answer"]).strip(), lambda items: " ".join(map(as_text, items)))


def inserted_text(said: str, entry: Entry) -> float | None:
    """1 for the text; a little for it as a list of characters, or in quotes."""
    gold, said = str(entry["answer"]), said.strip()
    if len(said) > 1 and said[0] == said[-1] and said[0] in "\"'" and said[1:-1] == gold:
        return LISTED
    return _as_text_or_list(said, gold, lambda items: "".join(map(as_text, items)))


def queens(said: str, entry: Entry) -> float | None:
    """1 for one of the boards that solve the problem; half for one as a list of lists."""
    boards = entry["metadata"].get("valid_answers")
    if not isinstance(boards, list):
        return None
    if said.strip() in boards:
        return 1.0
    items = read_list(said)
    return LISTED_BOARD if items is not None and _rows(items) in boards else 0.0


def _as_text_or_list(said: str, gold: str, spell: Callable[[list[Value]], str]) -> float:
    if said == gold:
        return 1.0
    items = read_list(said)
    return LISTED if items is not None and spell(items) == gold else 0.0


def _rows(items: list[Value]) -> str:
    return "\n".join(" ".join(map(as_text, row)) if isinstance(row, list) else as_text(row) for row in items)


def sorted_numbers(said: str, entry: Entry) -> float | None:
    """1 for a list of the gold's numbers in the gold's order, in quotes or not."""
    gold, found = _numbers(entry["answer"]), _numbers(said)
    return None if gold is None else float(found == gold)


_DECIMAL = re.compile(r"[-+]?[0-9]{1,30}(?:\.[0-9]{1,30})?")


def _numbers(text: Any) -> list[Fraction] | None:
    items = read_list(text) if isinstance(text, str) else None
    if items is None:
        return None
    found = []
    for item in items:
        if isinstance(item, str):
            if not _DECIMAL.fullmatch(item.strip()):
                return None
            item = Fraction(item.strip())
        if isinstance(item, list):
            return None
        found.append(item)
    return found


def groups_of_words(said: str, entry: Entry) -> float | None:
    """1 for the gold's lists of words, the lists and the words in them in any order."""
    gold, found = _lists(entry["answer"]), _lists(said)
    return None if gold is None else float(found is not None and _unordered(found) == _unordered(gold))


def partitions(said: str, entry: Entry) -> float | None:
    """1 for the gold's lists of parts, the lists in any order, repeats not counted."""
    gold, found = _lists(entry["answer"]), _lists(said)
    return None if gold is None else float(found is not None and set(map(tuple, found)) == set(map(tuple, gold)))


def _lists(text: Any) -> list[list[str]] | None:
    found = []
    for row in (read_list(text) if isinstance(text, str) else None) or [""]:
        if not isinstance(row, list):
            return None
        words = [word for word in row if isinstance(word, str)]
        if len(words) < len(row):
            return None
        found.append(words)
    return found


def _unordered(lists: list[list[str]]) -> list[list[str]]:
    return sorted(map(sorted, lists))


def grid_cells(said: str, entry: Entry) -> float | None:
    """Share of the gold's cells that are right; cells that the gold does not have count as wrong ones."""
    gold = _grid(entry["answer"])
    if not gold:
        return None
    found = _grid(said)
    if found is None:
        return 0.0
    right = sum(found.get(place) == cell for place, cell in gold.items())
    return right / len(gold.keys() | found.keys())


def _grid(text: Any) -> dict[tuple[int, int], Fraction | str] | None:
    items = read_list(text) if isinstance(text, str) else None
    if items is None:
        return None
    rows = [row if isinstance(row, list) else [row] for row in items]
    if any(isinstance(cell, list) for row in rows for cell in row):
        return None
    return {(i, j): cell for i, row in enumerate(rows) for j, cell in enumerate(row) if not isinstance(cell, list)}


def same_word(said: str, entry: Entry) -> float | None:
    """1 for the gold's word, in whatever case."""
    return float(said.strip().lower() == str(entry["answer"]).strip().lower())


# --- formulas --------------------------------------------------------------------------------------------------------


def product_of_polynomials(said: str, entry: Entry) -> float | None:
    """1 for the gold polynomial, its terms in any order; a product that is not multiplied out is no answer."""
    import sympy

    names = sorted({name for name in re.findall(r"[A-Za-z]+", str(entry["answer"])) if len(name) == 1})
    symbols = {name: sympy.Symbol(name) for name in names}
    gold, found = read_formula(str(entry["answer"]), symbols), read_formula(said, symbols)
    return None if gold is None else float(found is not None and found == gold)


def antiderivative(said: str, entry: Entry) -> float | None:
    """1 for a formula whose derivative is the integrand."""
    import sympy

    metadata = entry["metadata"]
    name, integrand = metadata.get("variable"), metadata.get("integrand")
    if not (isinstance(name, str) and isinstance(integrand, str) and re.fullmatch("[A-Za-z]", name)):
        return None
    symbol, constant = sympy.Symbol(name), sympy.Symbol("C")
    wanted = read_formula(integrand, {name: symbol})
    if wanted is None:
        return None
    try:
        found = read_formula(said, {name: symbol, "C": constant})
        if found is None:
            return 0.0
        difference = sympy.diff(found, symbol) - wanted
        if not _may_vanish(difference, wanted, {symbol: 0.0, constant: 1.3}, symbol):
            return 0.0
        return float(bool(sympy.simplify(difference) == 0))
    except MemoryError:
        raise
    except Exception:  # sympy fails on the formula: whether an answer is judged must not depend on the answer
        return 0.0


POINTS = (0.37, 0.61, 0.89, 1.27, 1.83)


def _may_vanish(difference: Any, wanted: Any, values: dict[Any, float], symbol: Any) -> bool:
    """Whether a formula is about 0 wherever it can be computed, and can be computed somewhere.

    Wrong answers end here; sympy's simplification, which can take long, sees only what is right or close to it.
    """
    computed = 0
    for point in POINTS:
        values[symbol] = point
        with contextlib.suppress(ArithmeticError, ValueError):
            size = abs(value_at(difference, values))
            scale = 1.0 + abs(value_at(wanted, values))
            if not size <= NEAR * scale:
                return False
            computed += 1
    return computed > 0


def value_at(formula: Any, values: Mapping[Any, float]) -> complex:
    """The value of a sympy formula with numbers for its symbols, in double precision.

    Raises:
        ArithmeticError, ValueError: it has none, or none of that size, or holds a function that is not known here.
    """
    if formula in values:
        return complex(values[formula])
    if formula.is_Rational or formula.is_NumberSymbol:
        return complex(float(formula))
    if formula.is_Add:
        return sum((value_at(part, values) for part in formula.args), 0j)
    if formula.is_Mul:
        product = 1 + 0j
        for part in formula.args:
            product *= value_at(part, values)
        return product
    if formula.is_Pow:
        base, exponent = (value_at(part, values) for part in formula.args)
        return complex(base**exponent)
    name = type(formula).__name__
    if name == "ImaginaryUnit":
        return 1j
    if name == "Abs":
        return complex(abs(value_at(formula.args[0], values)))
    known = _FUNCTIONS.get(name)
    if known is None:
        raise ValueError(f"no value for {name}")
    return complex(known(value_at(formula.args[0], values)))


_FUNCTIONS: Mapping[str, Callable[[complex], complex]] = {
    **{name: getattr(cmath, name) for name in "sin cos tan asin acos atan sinh cosh tanh exp log".split()},
    **{name: getattr(cmath, name) for name in "asinh acosh atanh".split()},
    "sec": lambda z: 1 / cmath.cos(z),
    "csc": lambda z: 1 / cmath.sin(z),
    "cot": lambda z: 1 / cmath.tan(z),
    "acot": lambda z: cmath.atan(1 / z),
}

_EVALUATES = "it evaluates the answer as Python"
OURS: Mapping[str, Ours] = {
    "binary_matrix": Ours(matrix_text, _EVALUATES),
    "bitwise_arithmetic": Ours(same_integer, "it evaluates the entry as Python, which may come from a file"),
    "coin_flip": Ours(probability, "it gives full marks to the first digits of the probability (0 for 0.375)"),
    "complex_arithmetic": Ours(complex_number, "it gives full marks to nan"),
    "countdown": Ours(countdown, _EVALUATES, needs_metadata=True),
    "fraction_simplification": Ours(simplified_fraction, "it accepts whatever follows a fraction (\\frac{1}{2} + 5)"),
    "game_of_life": Ours(grid_cells, "it accepts cells outside the grid"),
    "game_of_life_halting": Ours(same_word, "it accepts any text"),
    "group_anagrams": Ours(groups_of_words, "it reads JSON without a bound"),
    "gsm_symbolic": Ours(gold_number, "it takes the first number in the text, without its sign"),
    "intermediate_integration": Ours(antiderivative, _EVALUATES, needs_metadata=True),
    "n_queens": Ours(queens, _EVALUATES, needs_metadata=True),
    "number_sorting": Ours(sorted_numbers, "it evaluates the entry as Python, and accepts numbers that are off by 1"),
    "palindrome_partitioning": Ours(partitions, "it reads JSON without a bound"),
    "polynomial_multiplication": Ours(product_of_polynomials, _EVALUATES),
    "puzzle24": Ours(puzzle24, _EVALUATES + ", and ignores the given numbers", needs_metadata=True),
    "simple_integration": Ours(antiderivative, _EVALUATES, needs_metadata=True),
    "spiral_matrix": Ours(spiral, _EVALUATES),
    "string_insertion": Ours(inserted_text, _EVALUATES),
}
"""By task: who judges instead of the library."""
