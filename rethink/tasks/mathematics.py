r"""Whether a mathematical answer equals the gold: rules for what symbolic comparison gets wrong, then math-verify.

The rules, in order; `docs/rewards.md` has the table:

1. bounds: an answer that is too long, too deep, or could take unbounded time to evaluate is wrong;
2. a gold that is a number (`rethink.tasks.numbers`): an answer that is one too is compared exactly, with percent and
   units, a decimal of six digits or more may be the rounded value; any other answer must be arithmetic without
   variables, relations and words;
3. the same text is right;
4. numbers with a base: digits and base must agree;
5. words are compared as words; a single letter as a choice;
6. a set is no tuple, a closed interval no open one;
7. everything else by math-verify (sympy).
"""

from __future__ import annotations

import contextlib
import functools
import logging
import re
from fractions import Fraction
from typing import Any

from rethink.tasks.latex_text import is_name, mixed_to_sum, one_spelling, split_unit, without_degrees
from rethink.tasks.no_code import WouldBeCode, no_code
from rethink.tasks.numbers import MAX_SIDES, ROUNDED_DIGITS, Quantity, read_quantity, same_quantity, sides_of

MAX_ANSWER = 600
"""Characters of an answer; longer ones are wrong."""
MAX_DEPTH = 24
"""Brackets within brackets."""

# A number raised to a number raised to something, an exponent of five digits or with a product of large numbers in it,
# a power of ten of three digits, a factorial of four, a binomial or a gamma function of five, or sixty digits in a
# row: evaluating it could outlast the universe.
_TOWER = re.compile(r"(?:\^|\*\*)[\s{(]*-?\d+[\s})]*(?:\^|\*\*)[\s{(]*-?\d")
_EXPLOSIVE = re.compile(
    r"(?:\^|\*\*)[\s{(]*-?\d{5}|\d{4,}\s*!|!\s*!|\([^()A-Za-z]*\)\s*!|\{[^{}A-Za-z]*\}\s*!|\d{60}"
    r"|\d\s*[eE]\s*[-+]?\s*\d{3}|\\(?:binom|Gamma|gamma|zeta)(?![A-Za-z])[^A-Za-z]{0,80}\d{5}"
    r"|(?:\^|\*\*)\s*[{(][^{}()]{0,80}\d{3}[^{}()]{0,80}(?:\\cdot|\\times|\*)"
    r"|(?:\^|\*\*)\s*[{(][^{}()]{0,80}(?:\\cdot|\\times|\*)[^{}()]{0,80}\d{3}"
)
_BASED = re.compile(r"([0-9A-Fa-f]+(?:\.[0-9A-Fa-f]+)?)\s*_\s*(?:\{\s*(\w+)\s*\}|(\d+))")
_WORDS = re.compile(r"[A-Za-z][A-Za-z' -]*[A-Za-z]")
_CHOICE = re.compile(r"\(\s*([A-Z])\s*\)(?:\s*[^\s=+*/^(-].*)?|([A-Z])\s*[).:](?:\s+.*)?", re.DOTALL)
_BASE_NAMES = dict(zip("two three four five six seven eight nine ten".split(), range(2, 11), strict=True))
_NAME = re.compile(r"[\\|(]?[\\A-Za-z][\\A-Za-z0-9_{}()|:, ]{0,30}")
_TEXT = re.compile(r"[A-Za-z0-9 .,'&-]*[A-Za-z]{3}[A-Za-z0-9 .,'&-]*")
_FUNCTION = re.compile(r"(?<![\\A-Za-z])(sin|cos|tan|cot|sec|csc|arcsin|arccos|arctan|log|ln|exp|pi|infty)(?![A-Za-z])")
_ARTICLE = re.compile(r"^(?:an?|the)\s+", re.IGNORECASE)
_CLOCK = re.compile(r"(\d{1,2}:\d{2}(?::\d{2})?)\s*([ap]\.?m\.?)?", re.IGNORECASE)
_SHORT_DECIMAL = re.compile(r"(?<![\d.])(\d*)\.(\d+)(?![\d.])")


def math_equal(answer: str, gold: str | None) -> float | None:
    """1 where the answer equals the gold, 0 where it does not, None where the gold cannot be read.

    Answers are hostile: they are bounded before anything symbolic sees them, but a comparison can still take long, so
    it belongs into a process with a limit on its time.
    """
    if gold is None or not gold.strip() or len(gold) > MAX_ANSWER or depth(gold) > MAX_DEPTH:
        return None
    if len(answer) > MAX_ANSWER or depth(answer) > MAX_DEPTH:
        return 0.0
    number = read_quantity(gold)
    if number is not None:
        return float(_is_number(answer, number))
    right, said = one_spelling(gold), one_spelling(answer)
    if not right:
        return None
    if _squeezed(right) == _squeezed(said):
        return 1.0
    for rule in (_based, _words, _brackets):
        verdict = rule(said, right)
        if verdict is not None:
            return float(verdict)
    return _symbolic(said, right)


def depth(text: str) -> int:
    """Deepest nesting of brackets."""
    level = deepest = 0
    for char in text:
        if char in "([{":
            level += 1
            deepest = max(deepest, level)
        elif char in ")]}":
            level = max(level - 1, 0)
    return deepest


def _squeezed(text: str) -> str:
    # A space between digits parts two numbers, or thousands.
    text = re.sub(
        r"(?<![\d.])(\d{1,3}(?: \d{3})+)(?!\d| \d)", lambda m: m.group().replace(" ", ""), without_degrees(text)
    )
    return re.sub(r"(?<!\d)\s+|\s+(?!\d)", "", text)


# --- golds that are numbers ------------------------------------------------------------------------------------------

_CLOSED = re.compile(
    r"(?:[\d.(){}|+\-*/^!√ \n]|\\sqrt\s*\[\s*\d\s*\]"
    r"|\\(?:sqrt|frac|cdot|times|div|pi|arcsin|arccos|arctan|sin|cos|tan|cot|sec|csc|log|ln|exp|binom|lfloor|rfloor|lceil"
    r"|rceil|lvert|rvert|vert|degree)(?![A-Za-z])|\^\s*\{?\s*\\circ(?![A-Za-z])"
    r"|(?<![A-Za-z])(?:sqrt|sin|cos|tan|log|ln|exp|pi|e|i)(?![A-Za-z])|(?<=log)\s?_\s?(?:\d|\{\s?\d{1,6}\s?\}))+"
)
_IMAGINARY = re.compile(r"(?<![A-Za-z\\])i(?![A-Za-z])")
# Two numbers side by side, signs in a row, a decimal point without digits, an operator at an end.
_LOOSE = re.compile(r"\d\s+[\d.]|[-+]\s*[-+]|\.(?!\d)|^\s*[*/^!]|[-+*/^]\s*$|\}\s*\d|[\d)]\s*\{")


def _is_number(answer: str, gold: Quantity) -> bool:
    r"""Whether an answer is the number: read as one, or arithmetic of its value (`\sqrt{4}`, `\binom{5}{2} = 10`).

    `3x`, `x > 3`, `\pm 3`, `3 \text{ or } 4` are no number, whatever a symbolic comparison makes of them.
    """
    ours = read_quantity(answer)
    if ours is not None:
        return same_quantity(ours, gold, rounded=True)
    sides = sides_of(answer)
    if len(sides) > MAX_SIDES:
        return False
    values = [side for side in sides if not is_name(side)]
    if not values or not all(_is_closed(split_unit(side)[0]) or read_quantity(side) is not None for side in values):
        return False
    # What is given to a name is the last value; without one all sides have to be equal.
    return all(_evaluates_to(side, gold) for side in (values[-1:] if is_name(sides[0]) else values))


def _evaluates_to(text: str, gold: Quantity) -> bool:
    ours = read_quantity(text)
    if ours is not None:
        return same_quantity(ours, gold, rounded=True)
    bare, unit = split_unit(text)
    if None not in (unit, gold.unit) and unit != gold.unit:
        return False
    values = [gold.value, gold.value / 100] if gold.percent else [gold.value]
    bare = _IMAGINARY.sub(r"\\sqrt{-1} ", one_spelling(bare))
    return any(_symbolic(bare, _plain(value, gold.written)) == 1 for value in values)


def _is_closed(text: str) -> bool:
    """Whether a text is arithmetic: numbers, operators, functions and constants, nothing else."""
    plain = re.sub(r"\\(?:frac|binom)\s*\d?\s*|log\s?_\s?(?:\d|\{\s?\d+\s?\})\s?", "", text)
    return _CLOSED.fullmatch(text) is not None and _LOOSE.search(plain) is None


def _plain(value: Fraction, written: str) -> str:
    """A decimal as it was written (a long one may be rounded), every other number as a fraction."""
    if "." in written and Fraction(written) == value:
        return written
    return str(value.numerator) if value.denominator == 1 else rf"\frac{{{value.numerator}}}{{{value.denominator}}}"


# --- rules: (answer, gold) -> verdict, or None where the rule does not apply -----------------------------------------


def _based(said: str, right: str) -> bool | None:
    """Digits in a base: `52_8` is not `52`, nor the same value in another base (the question asked for a base)."""
    ours, gold = _BASED.fullmatch(_after_equals(said)), _BASED.fullmatch(_after_equals(right))
    if gold is None:
        return None
    if ours is None:
        return False
    return ours.group(1).upper().lstrip("0") == gold.group(1).upper().lstrip("0") and _base(ours) == _base(gold)


def _base(found: re.Match[str]) -> int | str:
    name = found.group(2) or found.group(3)
    return int(name) if name.isdigit() and len(name) < 4 else _BASE_NAMES.get(name.lower(), name)


def _after_equals(text: str) -> str:
    """What an assignment gives its name: `52_8` for `x = 52_8` and `f(2) = 4_8 + 1_8 = 5_8`; other texts stay."""
    parts = re.split(r"(?<![<>!\\])=", text)
    if len(parts) < 2 or "," in parts[-1] or ";" in text or not _NAME.fullmatch(parts[0].strip()):
        return text
    return parts[-1].strip()


def _words(said: str, right: str) -> bool | None:
    """Words (names, yes, even) as words; `C`, `(C)`, `C.` and `(C) Cecile` are the choice C."""
    gold_choice, our_choice = _choice(right), _choice(said)
    if gold_choice is not None and our_choice is not None:
        return gold_choice == our_choice
    if right.replace(" ", "").isalpha() and _WORDS.fullmatch(right) and len(right) > 2:
        return _plain_words(said) == _plain_words(right)
    gold, ours = _CLOCK.fullmatch(right), _CLOCK.fullmatch(said)
    if gold and ours:
        halves = [found.group(2).replace(".", "").lower() if found.group(2) else None for found in (gold, ours)]
        return gold.group(1) == ours.group(1) and (None in halves or halves[0] == halves[1])
    return None


def _plain_words(text: str) -> str:
    return _ARTICLE.sub("", text.strip(" .!")).casefold()


def _choice(text: str) -> str | None:
    plain = text.strip(" *")
    if len(plain) == 1 and plain.isalpha() and plain.isascii():
        return plain.upper()
    found = _CHOICE.fullmatch(plain)
    return (found.group(1) or found.group(2)) if found else None


def _brackets(said: str, right: str) -> bool | None:
    """A set in braces is no tuple or interval in round or square brackets; `[1, 2]` is not `(1, 2)`."""
    ours, gold = _enclosing(_after_membership(said)), _enclosing(_after_membership(right))
    if ours is None or gold is None or ours == gold:
        return None
    return False


def _ordered(said: str, right: str) -> tuple[str, str]:
    """Where one side is a tuple and the other a bare list, the list is taken for a tuple, in its order."""
    if _enclosing(said) == "()" and _is_list(right):
        return said, f"({right})"
    if _enclosing(right) == "()" and _is_list(said):
        return f"({said})", right
    return said, right


def _is_list(text: str) -> bool:
    return "," in text and not any(char in text for char in "()[]=<>") and "\\{" not in text


def _after_membership(text: str) -> str:
    return re.split(r"\\in(?![A-Za-z])|=", text)[-1].strip()


def _enclosing(text: str) -> str | None:
    r"""The brackets around a list of at least two elements: `()`, `[)`, `\{}`; None where it is no single one."""
    text = text.replace("\\lbrace", "\\{").replace("\\rbrace", "\\}").replace("\\{", "⦃").replace("\\}", "⦄")
    if len(text) < 2 or text[0] not in "([⦃" or text[-1] not in ")]⦄" or "," not in text:
        return None
    level = 0
    for place, char in enumerate(text):
        level += (char in "([⦃{") - (char in ")]⦄}")
        if level == 0 and place < len(text) - 1:
            return None
    return text[0] + text[-1]


# --- math-verify -----------------------------------------------------------------------------------------------------


def explosive(text: str) -> bool:
    """Whether evaluating the text could take unbounded time or memory."""
    return _TOWER.search(text) is not None or _EXPLOSIVE.search(text) is not None


def _symbolic(said: str, right: str) -> float | None:
    said, right = _ordered(said, right)
    right, gold_unit = split_unit(right)
    gold = None if explosive(right) else _parse(right)
    if gold is None:
        # A gold that is words and numbers (June 20) is compared as text, which was done; others cannot be read.
        return 0.0 if _TEXT.fullmatch(right) else None
    said, our_unit = split_unit(said)
    if gold_unit is not None and our_unit is not None and gold_unit != our_unit:
        return 0.0
    found = None if explosive(said) or not said else _parse(said)
    return float(found is not None and _verify(gold, found))


def _exact(found: re.Match[str]) -> str:
    """A short decimal as a fraction: it stands for itself, not for something that it is rounded from."""
    whole, places = found.groups()
    if len((whole + places).lstrip("0")) >= ROUNDED_DIGITS:
        return found.group()
    return rf"(\frac{{{int(whole + places)}}}{{{10 ** len(places)}}})"


def _for_library(text: str) -> str:
    text = _SHORT_DECIMAL.sub(_exact, text)
    text = mixed_to_sum(without_degrees(text)).replace("$", "")
    text = re.sub(r"(?<![\\A-Za-z])sqrt\s*\(([^()]*)\)", r"\\sqrt{\1}", text)
    text = _FUNCTION.sub(r"\\\1", text).replace("\\varnothing", "\\emptyset")
    return re.sub(r"\*\*\s*", "^", text)


def _parse(text: str) -> object | None:
    """A formula for sympy; None where it cannot be read as a whole.

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
    with contextlib.suppress(WouldBeCode), no_code():
        found = math_verify.parse(f"${_for_library(text)}$", [config], **options)
        return found[0] if found else None
    return None


def _verify(gold: object, answer: object) -> bool:
    import math_verify

    with contextlib.suppress(WouldBeCode), no_code():
        return bool(math_verify.verify([gold], [answer], timeout_seconds=None, allow_set_relation_comp=True))
    return False


@functools.cache
def _silence() -> None:
    """math-verify warns that its limits are off; the worker has its own."""
    for name in ("math_verify.parser", "math_verify.grader", "latex2sympy2_extended"):
        logging.getLogger(name).setLevel(logging.ERROR)
