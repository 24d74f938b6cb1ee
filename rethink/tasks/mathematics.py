r"""Whether a mathematical answer equals the gold: rules for what formulas do not say, then formulas.

The rules, in order; `docs/rewards.md` has the table:

1. bounds: an answer that is too long, too deep, or could take unbounded time to evaluate is wrong;
2. a gold that is a number (`rethink.tasks.numbers`): an answer that is one too is compared exactly, with percent and
   units, a decimal of six digits or more may be the rounded value; any other answer must be arithmetic without
   variables, relations and words;
3. the same text is right;
4. numbers with a base: digits and base must agree;
5. words are compared as words; a single letter as a choice;
6. figures and ratios by their parts; points and intervals with a name by name;
7. a set is no tuple, a closed interval no open one;
8. everything else as formulas (`rethink.tasks.symbolic`).
"""

from __future__ import annotations

import re
from fractions import Fraction

from rethink.tasks.choices import option_of
from rethink.tasks.latex_text import one_spelling, split_list, without_degrees
from rethink.tasks.numbers import MAX_SIDES, read_quantity, sides_of
from rethink.tasks.quantity import Quantity, same_quantity
from rethink.tasks.symbolic import Formula, parse, same_formula
from rethink.tasks.units import split_unit
from rethink.tasks.words import is_name

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
_BASE_NAMES = dict(zip("two three four five six seven eight nine ten".split(), range(2, 11), strict=True))
_NAME = re.compile(r"[\\|(]?[\\A-Za-z][\\A-Za-z0-9_{}()|:, ]{0,30}")
_TEXT = re.compile(r"[\w .,'&-]*(?:[A-Za-z]{3}|[^\W\d_A-Za-z])[\w .,'&-]*")

_ARTICLE = re.compile(r"^(?:an?|the)\s+", re.IGNORECASE)
_CLOCK = re.compile(r"(\d{1,2}:\d{2}(?::\d{2})?)\s*([ap]\.?m\.?)?", re.IGNORECASE)


def math_equal(answer: str, gold: str | None) -> float | None:
    """1 where the answer equals the gold, 0 where it does not, None where the gold cannot be read.

    Whether it is None depends on the gold alone. Answers are hostile: they are bounded before anything symbolic sees
    them, but a comparison can still take long, so it belongs into a process with a limit on its time.
    """
    if gold is None or not gold.strip() or len(gold) > MAX_ANSWER or depth(gold) > MAX_DEPTH:
        return None
    number = read_quantity(gold)
    right = one_spelling(gold)
    if number is None and not _readable(right):
        return None
    if len(answer) > MAX_ANSWER or depth(answer) > MAX_DEPTH:
        return 0.0
    try:
        return float(_is_number(answer, number) if number is not None else _equal(one_spelling(answer), right))
    except RecursionError:  # brackets of commands; the gold could be read, so it is the answer's
        return 0.0


_NAMELESS = re.compile(r"\s*(?:[<>]|\\(?:le|ge|ne)(?![A-Za-z]))")
_SUBJECT = re.compile(r"\s*([A-Za-z])\s*(?:[<>]|\\(?:le|ge|ne)(?![A-Za-z]))")


def equal_numbers(answer: str, gold: str) -> bool | None:
    """What `math_equal` says of two numbers; None where one of the texts is none. Linear in them."""
    right = read_quantity(gold)
    ours = None if right is None else read_quantity(answer)
    return None if ours is None or right is None else same_quantity(ours, right, rounded=True)


def _with_subject(text: str, other: str = "") -> str:
    r"""`\ne 2` with the name that the other text has, as 5 equals x = 5."""
    if not _NAMELESS.match(text):
        return text
    found = _SUBJECT.match(other)
    return f"{found.group(1) if found else 'x'} {text}"


def _readable(right: str) -> bool:
    """Whether anything can be compared with a gold."""
    right = _with_subject(right)
    if _BASED.fullmatch(_after_equals(right)) or _TEXT.fullmatch(right) or _CLOCK.fullmatch(right):
        return True
    if _figure(right) is not None or _ratio(right) is not None:
        return True
    items = _named_items(right)
    return _formula(right) is not None if items is None else all(_formula(value) is not None for _, value in items)


def _equal(said: str, right: str) -> bool:
    said, right = _with_subject(said, right), _with_subject(right, said)
    if _squeezed(right) == _squeezed(said):
        return True
    for rule in (_based, _words, _figures, _ratios, _named, _brackets):
        verdict = rule(said, right)
        if verdict is not None:
            return verdict
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
    return all(_evaluates_to(side, gold) for side in values)


def _evaluates_to(text: str, gold: Quantity) -> bool:
    ours = read_quantity(text)
    if ours is not None:
        return same_quantity(ours, gold, rounded=True)
    bare, unit = split_unit(text)
    if None not in (unit, gold.unit) and unit != gold.unit:
        return False
    values = [gold.value, gold.value / 100] if gold.percent else [gold.value]
    bare = _IMAGINARY.sub(r"\\sqrt{-1} ", one_spelling(bare))
    return any(_symbolic(bare, _plain(value, gold.written)) for value in values)


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
    gold_choice, our_choice = option_of(right), option_of(said)
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


_FIGURE = re.compile(
    r"(?:(m?\s*\\angle|\\(?:triangle|overline|overrightarrow|overleftrightarrow|widehat|odot|square|parallelogram)))"
    r"\s*\{?\s*((?:[A-Z](?:_\{?\d\}?)?'?\s*){1,6}|\d)\}?"
)


def _figure(text: str) -> tuple[str, list[str]] | None:
    r"""A figure by its name: `\angle ABC`, `\triangle ABC`, `\overline{AB}`."""
    found = _FIGURE.fullmatch(text)
    if found is None:
        return None
    letters = re.findall(r"\w(?:_\{?\d\}?)?'?", found.group(2))
    return found.group(1).lstrip("m "), [letter.replace("{", "").replace("}", "") for letter in letters]


def _figures(said: str, right: str) -> bool | None:
    """A figure is its kind and its letters, forwards or backwards; the corners of a triangle have no order."""
    gold = _figure(right)
    if gold is None:
        return None
    ours = _figure(said)
    if ours is None or ours[0] != gold[0]:
        return False
    if gold[0] == "\\triangle":
        return sorted(ours[1]) == sorted(gold[1])
    return ours[1] == gold[1] or (gold[0] != "\\overrightarrow" and ours[1] == gold[1][::-1])


def _ratio(text: str) -> list[Fraction] | None:
    """The parts of a ratio of three numbers or more, as shares of the first; two are a fraction."""
    parts = [read_quantity(part) for part in text.split(":")] if 2 < len(text.split(":")) < 20 else [None]
    values = [part.value for part in parts if part is not None and part.value]
    return [value / values[0] for value in values] if len(values) == len(parts) else None


def _ratios(said: str, right: str) -> bool | None:
    gold = None if _CLOCK.fullmatch(right) else _ratio(_after_equals(right))
    return None if gold is None else gold == _ratio(_after_equals(said))


_KIND = re.compile(r"(?:the\s+)?(?:point|(?:open|closed)?\s*interval)s?\s+(?=[A-Z(\[])")
_NAMED = re.compile(r"([A-Z](?:_\{?\w\}?)?'{0,2})\s*=?\s*(?=[(\[])")


def _named_items(text: str) -> list[tuple[str | None, str]] | None:
    """Points and intervals with their names (`A(0, 0), I = [0, 1]`); None for texts without such a name."""
    items = []
    for part in split_list(_KIND.sub("", text)):
        found = _NAMED.match(part)
        value = part[found.end() :] if found else part
        if _enclosing(value) is None:
            return None
        items.append((re.sub(r"[{}]", "", found.group(1)) if found else None, value))
    return items if _KIND.match(text) or any(name is not None for name, _ in items) else None


def _named(said: str, right: str) -> bool | None:
    """A named value must have the same name, or none: then it must be in the gold answer's order."""
    named = [_named_items(text) for text in (right, said)]
    if named == [None, None]:
        return None
    gold, ours = (
        items if items is not None else [(None, part) for part in split_list(text)]
        for items, text in zip(named, (right, said), strict=True)
    )
    if len(gold) != len(ours):
        return False
    if all(name is not None for name, _ in (*gold, *ours)):
        gold, ours = sorted(gold, key=str), sorted(ours, key=str)
    return all(
        (None in (theirs[0], mine[0]) or theirs[0] == mine[0]) and _equal(mine[1], theirs[1])
        for theirs, mine in zip(gold, ours, strict=True)
    )


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


# --- formulas --------------------------------------------------------------------------------------------------------


def explosive(text: str) -> bool:
    """Whether evaluating the text could take unbounded time or memory."""
    return _TOWER.search(text) is not None or _EXPLOSIVE.search(text) is not None


def _symbolic(said: str, right: str) -> bool:
    said, right = _ordered(said, right)
    (right, gold_unit), (said, our_unit) = split_unit(right), split_unit(said)
    if gold_unit is not None and our_unit is not None and gold_unit != our_unit:
        return False
    gold = None if explosive(right) else parse(right)
    found = None if gold is None or explosive(said) or not said else parse(said)
    return gold is not None and found is not None and same_formula(gold, found)


def _formula(text: str) -> Formula | None:
    bare = split_unit(text)[0]
    return None if explosive(bare) else parse(bare)
