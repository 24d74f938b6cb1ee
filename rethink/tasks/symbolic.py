"""Formulas as sympy objects, and whether two say the same.

math-verify reads the formulas. Its own comparison is not used: it takes numbers for equal that differ by less than
1e-15, whatever their size, and two equations without a solution for one. Here rational numbers are compared exactly,
other numbers to 50 significant digits, and everything with variables by symbolic simplification. Text is bounded by the
caller (`rethink.tasks.mathematics`); a comparison may still take long.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import Any, NamedTuple

from rethink.tasks.latex_text import mixed_to_sum, without_degrees
from rethink.tasks.no_code import WouldBeCode, no_code
from rethink.tasks.quantity import ROUNDED_DIGITS, rounds_to

DIGITS = 50
"""Significant digits to which irrational numbers must agree."""
MOST_DIGITS = 400
"""Significant digits to which a number is worked out that seems to be zero."""
MAX_PAIRS = 400
"""Elements of two sets that are compared one by one."""

_DECIMAL = re.compile(r"(?<![\d.])(\d*)\.(\d+)(?![\d.])", re.ASCII)
_SCIENTIFIC = re.compile(r"(?<![\w\\])(\d+(?:\.\d+)?|\.\d+)[eE]([-+]?\d{1,2})(?![\w.])", re.ASCII)
_FUNCTION = re.compile(r"(?<![\\A-Za-z])(sin|cos|tan|cot|sec|csc|arcsin|arccos|arctan|log|ln|exp|pi|infty)(?![A-Za-z])")


_CONNECTIVE = re.compile(r"\\(?:lor|land)(?![A-Za-z])")


class Formula(NamedTuple):
    """What was read of a text."""

    value: Any
    decimals: Mapping[Fraction, str]
    """Its decimals of six digits or more, as they were written: each may be rounded from the exact value."""


@functools.lru_cache(maxsize=128)
def parse(text: str) -> Formula | None:
    """A formula for sympy; None where it cannot be read as a whole."""
    return _connected(text) if _CONNECTIVE.search(text) else _parse(text)


def _parse(text: str) -> Formula | None:
    """What math-verify reads.

    Of math-verify's own clean-up only what spells formulas is used: its removal of units cuts formulas apart, and its
    fall-back to the numbers in a formula that it cannot read would take the rest for right.
    """
    import math_verify
    from latex2sympy2_extended import NormalizationConfig

    _silence()
    spelling = NormalizationConfig(
        basic_latex=True, units=False, malformed_operators=True, nits=True, boxed="none", equations=False
    )
    config = math_verify.LatexExtractionConfig(boxed_match_priority=-1, normalization_config=spelling)
    # Its time limit rests on a signal, which only the main thread can receive: the caller limits us.
    options: dict[str, Any] = {"fallback_mode": "no_fallback", "parsing_timeout": None, "raise_on_error": False}
    text, decimals = _exact(text)
    with contextlib.suppress(WouldBeCode), no_code():
        found = math_verify.parse(f"${_for_library(text)}$", [config], **options)
        return Formula(found[0], decimals) if found and not isinstance(found[0], str) else None
    return None


def _connected(text: str) -> Formula | None:
    """Inequalities with "or" between them, or "and"; None where one of them is none, or both words occur."""
    from sympy import And, Or

    parts = re.split(r"\\lor(?![A-Za-z])", text)
    both = re.split(r"\\land(?![A-Za-z])", text)
    if len(parts) > 1 and len(both) > 1:
        return None
    found = [_parse(part) for part in (parts if len(parts) > 1 else both)]
    if any(each is None or not _relations(each.value) for each in found):
        return None
    decimals = {value: written for each in found if each is not None for value, written in each.decimals.items()}
    chains = [_relations(each.value) for each in found if each is not None]
    if len(parts) == 1:
        return Formula(And(*(relation for chain in chains for relation in chain), evaluate=False), decimals)
    return Formula(Or(*(And(*c, evaluate=False) if len(c) > 1 else c[0] for c in chains), evaluate=False), decimals)


def _exact(text: str) -> tuple[str, dict[Fraction, str]]:
    """The text with every decimal as a fraction, and those that are long enough to be rounded."""
    long: dict[Fraction, str] = {}

    def spell(found: re.Match[str]) -> str:
        whole, places = found.groups()
        if len((whole + places).lstrip("0")) >= ROUNDED_DIGITS:
            long[Fraction(f"0{whole}.{places}")] = found.group()
        return rf"(\frac{{{int(whole + places)}}}{{{10 ** len(places)}}})"

    text = _SCIENTIFIC.sub(lambda found: rf"({found.group(1)}\cdot 10^{{{int(found.group(2))}}})", text)
    return _DECIMAL.sub(spell, text), long


def _for_library(text: str) -> str:
    text = mixed_to_sum(without_degrees(text)).replace("$", "")
    text = re.sub(r"(?<![\\A-Za-z])sqrt\s*\(([^()]*)\)", r"\\sqrt{\1}", text)
    text = _FUNCTION.sub(r"\\\1", text).replace("\\varnothing", "\\emptyset")
    return re.sub(r"\*\*\s*", "^", text)


@functools.cache
def _silence() -> None:
    """math-verify warns that its limits are off; the worker has its own."""
    for name in ("math_verify.parser", "math_verify.grader", "latex2sympy2_extended"):
        logging.getLogger(name).setLevel(logging.ERROR)


def same_formula(gold: Formula, said: Formula) -> bool:
    """Whether an answer says what the gold says; a comparison that fails says no."""
    decimals = {**said.decimals, **gold.decimals}
    # What sympy cannot do it says by exceptions of every kind.
    with contextlib.suppress(Exception), no_code():
        return _same(gold.value, said.value, decimals)
    return False


Decimals = Mapping[Fraction, str]


def _same(gold: Any, said: Any, decimals: Decimals) -> bool:
    from sympy import Expr, MatrixBase, Set, Symbol, Tuple, nan, zoo

    gold, said = _aligned(_apart(gold), _apart(said), decimals)
    if any(value in (nan, zoo) for value in (gold, said) if isinstance(value, Expr)):
        return False
    if _relations(gold) and _relations(said):
        return _same_relations(gold, said, decimals)
    if _alternatives(gold) and _alternatives(said):
        return _same_alternatives(gold, said, decimals)
    gold, said = (
        as_set(value) if _is_condition(value) and isinstance(other, Set) else value
        for value, other in ((gold, said), (said, gold))
    )
    if isinstance(gold, MatrixBase) or isinstance(said, MatrixBase):
        alike = isinstance(gold, MatrixBase) and isinstance(said, MatrixBase) and gold.shape == said.shape
        return alike and all(_same(a, b, decimals) for a, b in zip(gold.flat(), said.flat(), strict=True))
    if isinstance(gold, Set | Tuple) or isinstance(said, Set | Tuple):
        return same_sets(gold, said, decimals)
    if isinstance(gold, Symbol) or isinstance(said, Symbol):
        return _letters(gold) is not None and _letters(gold) == _letters(said)
    if isinstance(gold, Expr) and isinstance(said, Expr):
        return _same_values(gold, said, decimals)
    return bool(gold == said)


# --- equations and inequalities --------------------------------------------------------------------------------------


def _relations(value: Any) -> list[Any]:
    """The relations of a chain (`1 < x < 2`), or the single one; empty for everything else."""
    from sympy import And
    from sympy.core.relational import Relational

    if isinstance(value, Relational):
        return [value]
    parts = list(getattr(value, "_unsorted_args", value.args)) if isinstance(value, And) else []
    return parts if parts and all(isinstance(part, Relational) for part in parts) else []


def _equations(value: Any) -> list[Any]:
    from sympy import Eq

    relations = _relations(value)
    return relations if all(isinstance(relation, Eq) for relation in relations) else []


def _aligned(gold: Any, said: Any, decimals: Decimals) -> tuple[Any, Any]:
    """Both as equations, or both as what an equation gives its name (`x = 5` and 5)."""
    from sympy import Eq

    ours, theirs = _equations(said), _equations(gold)
    ours_named, theirs_named = bool(ours) and _is_named(ours), bool(theirs) and _is_named(theirs)
    # All sides have to be equal but for the name: 2x = 5 and x = 6 = 5 are no 5.
    whole = all(_same(each.lhs, each.rhs, decimals) for each in ours[ours_named:])
    if ours_named and whole and len(ours) > 1:
        said = Eq(ours[0].lhs, ours[-1].rhs, evaluate=False)
    if theirs_named and len(theirs) > 1:
        gold = Eq(theirs[0].lhs, theirs[-1].rhs, evaluate=False)
    if whole and ours and not _relations(gold):
        said = ours[-1].rhs
    elif theirs_named and not _relations(said):
        gold = theirs[-1].rhs
    return gold, said


def _apart(value: Any) -> Any:
    """One equation of each element for `(x, y) = (1, 2)`; everything else stays."""
    from latex2sympy2_extended.sets import FiniteSet
    from sympy import Eq

    equations = _equations(value)
    if len(equations) != 1:
        return value
    left, right = (_as_tuple(side) for side in equations[0].args)
    if left is None or right is None or len(left) != len(right) or not _is_named(equations):
        return value
    return FiniteSet(*(Eq(a, b, evaluate=False) for a, b in zip(left, right, strict=True)))


def _is_named(equations: Sequence[Any]) -> bool:
    """Whether the first side is a name: x, f(x), (x, y), or a ratio of two (V : W)."""
    from latex2sympy2_extended import is_expr_of_only_symbols
    from sympy import I, Interval, Mul, Pow, Symbol, Tuple
    from sympy.core.function import AppliedUndef

    left = equations[0].lhs
    if isinstance(left, Tuple | Interval):
        return all(isinstance(part, Symbol) for part in (left.args[:2] if isinstance(left, Interval) else left.args))
    ratio = isinstance(left, Mul | Pow) and left.as_numer_denom()[1] != 1 and is_expr_of_only_symbols(left)
    return isinstance(left, Symbol | AppliedUndef) or left == I or ratio


def _same_relations(gold: Any, said: Any, decimals: Decimals) -> bool:
    ours, theirs = _relations(said), _relations(gold)
    if len(ours) == len(theirs):
        if all(_same_relation(a, b, decimals) for a, b in zip(theirs, ours, strict=True)):
            return True
        if all(_same_relation(a, b, decimals) for a, b in zip(theirs, reversed(ours), strict=True)):
            return True
    if _equations(gold) or _equations(said) or gold.free_symbols != said.free_symbols:
        return False
    return same_sets(as_set(gold), as_set(said), decimals)


def _is_condition(value: Any) -> bool:
    from sympy import Or

    return isinstance(value, Or) or bool(_relations(value))


def _alternatives(value: Any) -> list[Any]:
    """The relations that "or" or commas separate, one of them an inequality; a single relation is one."""
    from sympy import FiniteSet, Or

    parts = list(value.args) if isinstance(value, Or | FiniteSet) else [value]
    return parts if parts and all(_relations(p) for p in parts) and not all(_equations(p) for p in parts) else []


def _same_alternatives(gold: Any, said: Any, decimals: Decimals) -> bool:
    from sympy import FiniteSet

    if matched(_alternatives(gold), _alternatives(said), lambda a, b: _same(a, b, decimals)):
        return True
    # Commas may mean "and" or "or", so a list does not determine the whole.
    if isinstance(gold, FiniteSet) or isinstance(said, FiniteSet) or gold.free_symbols != said.free_symbols:
        return False
    return same_sets(as_set(gold), as_set(said), decimals)


def _same_relation(gold: Any, said: Any, decimals: Decimals) -> bool:
    """Equal up to a factor: `2x + 2y = 4` and `x + y = 2`, `x < 3` and `3 > x`."""
    from sympy import Eq, Expr, Ne

    if gold == said:
        return True
    if not all(isinstance(side, Expr) for side in (*gold.args, *said.args)):
        # What a name is given is a set: x = {1, 2}.
        return type(gold) is type(said) and all(
            _same(*pair, decimals) for pair in zip(gold.args, said.args, strict=True)
        )
    if isinstance(gold, Eq | Ne):
        if type(gold) is not type(said):
            return False
        if gold.lhs == said.lhs and _same_values(gold.rhs, said.rhs, decimals):
            return True
        return _factor(gold.lhs - gold.rhs, said.lhs - said.rhs) != 0
    if isinstance(said, Eq | Ne) or isinstance(gold, _strict()) != isinstance(said, _strict()):
        return False
    if _same_values(gold.lts, said.lts, decimals) and _same_values(gold.gts, said.gts, decimals):
        return True
    return _factor(gold.gts - gold.lts, said.gts - said.lts) > 0


def _strict() -> tuple[type, ...]:
    from sympy import StrictGreaterThan, StrictLessThan

    return StrictGreaterThan, StrictLessThan


def _factor(gold: Any, said: Any) -> int:
    """The sign of the number by which one side is a multiple of the other; 0 where there is no such number."""
    from sympy import simplify

    factor = simplify(gold / said)
    if not (factor.is_number and factor.is_finite) or factor.is_zero:
        return 0
    return 1 if factor.is_positive else -1


def as_set(value: Any) -> Any:
    """The numbers that relations of one variable allow; what cannot be solved stays."""
    from sympy import Dummy, Set
    from sympy.core.function import AppliedUndef

    if isinstance(value, Set):
        return value
    value = value.subs({call: Dummy(real=True) for call in value.atoms(AppliedUndef)})
    return value.as_set() if len(value.free_symbols) == 1 else value


# --- sets, lists, tuples, intervals ----------------------------------------------------------------------------------


def same_sets(gold: Any, said: Any, decimals: Decimals) -> bool:
    """Whether two sets, tuples or intervals are the same; another value counts as the set of itself."""
    from sympy import FiniteSet, Interval, Set, Tuple, Union

    gold, said = (value if isinstance(value, Set | Tuple) else FiniteSet(value) for value in (gold, said))
    if gold == said:
        return True
    if isinstance(gold, Interval) and isinstance(said, Interval):
        ends = _same(gold.start, said.start, decimals) and _same(gold.end, said.end, decimals)
        return ends and gold.left_open == said.left_open and gold.right_open == said.right_open
    if isinstance(gold, FiniteSet) and isinstance(said, FiniteSet | Tuple | Interval) and _names(gold):
        return _same_assignments(gold, said, decimals)
    if isinstance(said, FiniteSet) and isinstance(gold, FiniteSet | Tuple | Interval) and _names(said):
        return _same_assignments(said, gold, decimals)
    if isinstance(gold, Tuple) or isinstance(said, Tuple):
        pairs = [_as_tuple(gold), _as_tuple(said)]
        if None in pairs or len(pairs[0]) != len(pairs[1]):
            return False
        return all(_same(a, b, decimals) for a, b in zip(*pairs, strict=True))
    if isinstance(gold, FiniteSet) and isinstance(said, FiniteSet):
        return matched(gold.args, said.args, lambda a, b: _same(a, b, decimals))
    unions = isinstance(gold, Union) and isinstance(said, Union) and len(gold.args) == len(said.args)
    if unions and matched(gold.args, said.args, lambda a, b: same_sets(a, b, decimals)):
        return True
    return bool(gold.symmetric_difference(said).is_empty)


def _names(value: Any) -> list[Any]:
    """The names of a list of assignments to different ones (x = 1, AB = 2); empty for every other list."""
    from latex2sympy2_extended import is_expr_of_only_symbols

    parts = value.args
    if not all(_equations(part) and is_expr_of_only_symbols(_equations(part)[0].lhs) for part in parts):
        return []
    names = [_equations(part)[0].lhs for part in parts]
    return names if len(set(names)) == len(names) > 1 else []


def _same_assignments(named: Any, other: Any, decimals: Decimals) -> bool:
    """Values with names are the same in any order, values without them in the order of the names."""
    from sympy import FiniteSet

    elements = _written(other) if isinstance(other, FiniteSet) else _as_tuple(other)
    if elements is None or len(elements) != len(named.args):
        return False
    if any(_relations(element) for element in elements):
        return matched(named.args, elements, lambda a, b: _same(a, b, decimals))
    values = [_equations(part)[-1].rhs for part in _written(named)]
    return all(_same(a, b, decimals) for a, b in zip(values, elements, strict=True))


def _written(value: Any) -> Sequence[Any]:
    """The elements of a set in the order in which they were written."""
    return list(getattr(value, "_unsorted_args", value.args))


def _as_tuple(value: Any) -> Any:
    """The elements of a tuple; `(1, 2)` is read as an open interval."""
    from sympy import Interval, Tuple

    if isinstance(value, Interval):
        return (value.start, value.end) if value.left_open and value.right_open else None
    return tuple(value.args) if isinstance(value, Tuple) else None


def matched(gold: Sequence[Any], said: Sequence[Any], same: Callable[[Any, Any], bool]) -> bool:
    """Whether each element of one list is in the other; order and repeats do not count."""
    left = [a for a in gold if a not in said], [b for b in said if b not in gold]
    if len(left[0]) * len(said) + len(left[1]) * len(gold) > MAX_PAIRS:
        return False
    return all(any(same(a, b) for b in said) for a in left[0]) and all(any(same(a, b) for a in gold) for b in left[1])


# --- values ----------------------------------------------------------------------------------------------------------


def _letters(value: Any) -> str | None:
    r"""The letters that a name is, or a product of letters: `\text{abc}` and `abc`; capitals count in single ones."""
    from sympy import E, Mul, Symbol

    parts = list(value.args) if isinstance(value, Mul) else [value]
    if not all(isinstance(part, Symbol) or part == E for part in parts):
        return None
    names = [part.name if isinstance(part, Symbol) else "e" for part in parts]
    name = "".join(names)
    return name.lower() if len(name) > 1 or name == "E" else name


def _same_values(gold: Any, said: Any, decimals: Decimals) -> bool:
    from sympy import simplify

    if gold == said:
        return True
    # 10% may be written as 10: golds leave the sign out as often as not.
    percent = [_percentage(value) for value in (gold, said)]
    if any(value is not None for value in percent):
        a, b = (plain if plain is not None else value for plain, value in zip(percent, (gold, said), strict=True))
        return _same_values(a, b, decimals) or (None in percent and _same_values(_done(gold), _done(said), decimals))
    gold, said = _done(gold), _done(said)
    if gold == said:
        return True
    if gold.is_Rational and said.is_Rational:
        return _rounded(gold, said, decimals)
    if not (gold.free_symbols or said.free_symbols) and gold.is_finite is not False and said.is_finite is not False:
        verdict = _same_numbers(gold, said)
        if verdict is not None:
            return verdict
    return bool(simplify(gold - said).is_zero)


def _done(value: Any) -> Any:
    """The value with sums, integrals and the like worked out, where sympy can without code."""
    with contextlib.suppress(Exception):
        return value.doit()
    return value


def _percentage(value: Any) -> Any:
    """n, where a value was read from n%; None for every other."""
    from sympy import Mul, Rational, UnevaluatedExpr

    hundredth = UnevaluatedExpr(Rational(1, 100))
    return value.args[0] if isinstance(value, Mul) and len(value.args) == 2 and value.args[1] == hundredth else None


def _same_numbers(gold: Any, said: Any) -> bool | None:
    """Whether two numbers agree to `DIGITS` significant digits; None where they cannot be evaluated.

    No decimal is an irrational number: 3.14159265 is not pi.
    """
    theirs, ours = _evaluated(gold), _evaluated(said)
    if theirs is None or ours is None:
        return None
    return bool(abs(ours - theirs) <= max(abs(ours), abs(theirs)) / 10 ** (DIGITS - 2))


def _evaluated(value: Any) -> Any:
    """A number to `DIGITS` significant digits, and more where nearly all cancel; None where there is no such number."""
    from sympy import I, Integer

    for digits in (DIGITS, MOST_DIGITS):
        parts = value.evalf(digits, maxn=2 * MOST_DIGITS).as_real_imag()
        if not all(part.is_Float or part.is_Rational for part in parts):
            return None
        # sympy says by a precision of one bit that no digit is left.
        real, imaginary = (part if getattr(part, "_prec", 2) > 1 else Integer(0) for part in parts)
        if real != 0 or imaginary != 0:
            break
    return real + I * imaginary


def _rounded(gold: Any, said: Any, decimals: Decimals) -> bool:
    """Whether one of two rational numbers is a long decimal that the other is rounded or cut to."""
    theirs, ours = (Fraction(int(value.p), int(value.q)) for value in (gold, said))
    return rounds_to(ours, decimals.get(abs(ours)), theirs, decimals.get(abs(theirs)))
