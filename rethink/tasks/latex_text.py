r"""Mathematical answers as text: one spelling for what is written in many ways, before anything symbolic reads it.

Every step is linear in the text, and the text is bounded before the first.
"""

from __future__ import annotations

import re
import unicodedata
from fractions import Fraction

MAX_NUMBER = 100
"""Characters of a number; longer ones are not read (reading digits takes quadratic time)."""

# Superscripts become powers and vulgar fractions fractions before NFKC would turn "2²" into "22".
_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻", "0123456789-")
_SUPERSCRIPT = re.compile(r"[⁰¹²³⁴⁵⁶⁷⁸⁹⁻]+")
_SYMBOLS = {
    "−": "-",
    "–": "-",
    "×": r"\times ",
    "·": r"\cdot ",
    "⋅": r"\cdot ",
    "÷": "/",
    "π": r"\pi ",
    "∞": r"\infty ",
    "≤": r"\le ",
    "≥": r"\ge ",
    "≠": r"\ne ",
    "∪": r"\cup ",
    "∩": r"\cap ",
    "∈": r"\in ",
    "±": r"\pm ",
    "∅": r"\emptyset ",
    "°": r"^\circ ",
}
# Two backslashes end a row of a matrix: the second one begins no command.
# "1½" is a mixed number; normalised at once it would be 11/2.
_AFTER_WHOLE = re.compile(r"(?<=\d)(?=[\u00bc-\u00be\u2150-\u215e])")
_ROOT = re.compile(r"√\s*\(?(\d+(?:\.\d+)?|[A-Za-z])\)?")
_SPACES = re.compile(
    r"(?<!\\)\\[,;:! ]|(?<!\\)\\(?:quad|qquad|thinspace|displaystyle|limits|hspace\{[^{}]*\})(?![A-Za-z])|~"
)
_THIN = re.compile(
    r"(?<=\d)\s*,\s*\\!\s*(?=\d{3})|(?<=\d)\s*\{,\}\s*(?=\d{3})|(?<=\d)\s*(?<!\\)\\[,!]\s*(?=\d{3}(?!\d))"
)
_BRACKETS = re.compile(r"\\(?:left|right|[bB]igg?[lr]?)(?![A-Za-z])\.?")
_FRACTIONS = re.compile(r"\\[dt]frac(?![A-Za-z])")
_STYLES = re.compile(
    r"\\(?:text|textbf|textit|textrm|textnormal|mathrm|mathbf|mathit|mathsf|operatorname|mbox|hbox|bm|rm)\s*\{([^{}]*)\}"
)
_DEGREES = re.compile(r"\^\s*(?:\{\s*\\(?:circ|degree)\s*\}|\\(?:circ|degree)(?![A-Za-z]))|\\degree(?![A-Za-z])")
_TRIGONOMETRIC = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc)(?![A-Za-z])")
_IN_DEGREES = re.compile(r"(\d+)\s*" + _DEGREES.pattern)
_AND = re.compile(r"\s*,?\s*\b(?:and|or|und|et)\b\s*", re.IGNORECASE)
_THOUSANDS = re.compile(r"(?<![\d.,])\d{1,3}(?:,\d{3})+(?![\d,])")
_PERCENT = re.compile(r"\s*(?:\\?%|\b(?:percent(?:age)?|pct)\b)\s*$", re.IGNORECASE)
_CURRENCY = re.compile(r"\\\$|[$€£¥₹]|\\(?:pounds|euro)(?![A-Za-z])")
_NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)")
_UNIT = re.compile(
    r"(?<=[\d})])\s*((?:(?:square|cubic|sq|cu)\.?\s+)?[A-Za-zµ]+(?:\s*/\s*[A-Za-z]+|\s+per\s+[A-Za-z]+)?)"
    r"(?:\s*\^\s*\{?([23])\}?)?\s*\.?\s*$"
)
_MIXED = re.compile(r"(-?)(\d+)\s*\\frac\s*(?:\{\s*(\d+)\s*\}|(\d))\s*(?:\{\s*(\d+)\s*\}|(\d))")
_PLAIN_MIXED = re.compile(r"(-?)(\d+)\s+(\d+)\s*/\s*(\d+)")
_FRAC = re.compile(r"([-+]?)\s*\\frac\s*(?:\{\s*([-+]?\d+)\s*\}|(\d))\s*(?:\{\s*([-+]?\d+)\s*\}|(\d))")
_REPEATING = re.compile(r"(-?)(\d*)\.(\d*)\\overline\s*\{\s*(\d+)\s*\}")
_SCIENTIFIC = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)[eE][-+]?\d{1,2}")
_SLASH = re.compile(r"([-+]?(?:\d+\.?\d*|\.\d+))\s*/\s*(\d+\.?\d*|\.\d+)")


def one_spelling(text: str) -> str:
    r"""The answer with one spelling for symbols, spaces, brackets, fractions, thousands, `\text{}` and "and"."""
    text = _SUPERSCRIPT.sub(lambda m: f"^{{{m.group().translate(_SUPERSCRIPTS)}}}", text)
    for symbol, latex in _SYMBOLS.items():
        text = text.replace(symbol, latex)
    text = _AFTER_WHOLE.sub(" ", text)
    text = _ROOT.sub(r"\\sqrt{\1}", text)
    text = unicodedata.normalize("NFKC", text).replace("⁄", "/")
    text = without_delimiters(text)
    text = _THIN.sub("", text)
    text = _FRACTIONS.sub(r"\\frac", _BRACKETS.sub("", text))
    text = _SPACES.sub(" ", text)
    text = text.replace("\\langle", "(").replace("\\rangle", ")").replace("\\log_e ", "\\ln ")
    text = _CURRENCY.sub("", text).strip(' \n\t`"')
    text = text.rstrip(" .;,:") if not text.endswith("\\.") else text
    for _ in range(3):  # styles within styles
        text, changed = _STYLES.subn(_unstyled, text)
        if not changed:
            break
    text = re.sub(r"\*\*([^*]*)\*\*", r"\1", text) if text.startswith("**") else text
    text = _AND.sub(", ", text) if re.search(r"[\d}) ]\s*,?\s*(?:and|or|und|et)\s", text, re.IGNORECASE) else text
    text = _outside_brackets(text)
    return " ".join(text.split())


def _unstyled(found: re.Match[str]) -> str:
    """The content of a style; a space parts it from what stands before it, and not within braces."""
    inner, before = found.group(1).strip(), found.string[: found.start()][-1:]
    return (" " if before.isalnum() or (before in "})" and before) else "") + inner + (" " if inner else "")


def without_delimiters(text: str) -> str:
    r"""Without `$…$`, `$$…$$`, `\(…\)`, `\[…\]` around the whole."""
    text = text.strip()
    while True:
        bare = text.strip(" \n\t.") if text.startswith(("$", "\\(", "\\[")) else text
        for opening, closing in (("$$", "$$"), ("$", "$"), ("\\(", "\\)"), ("\\[", "\\]")):
            if len(bare) > len(opening) + len(closing) and bare.startswith(opening) and bare.endswith(closing):
                inner = bare[len(opening) : -len(closing)]
                if closing not in inner:
                    text = inner.strip()
                    break
        else:
            return text


def _outside_brackets(text: str) -> str:
    """Thousands separators removed, but not within brackets, where a comma parts elements."""
    if not _THOUSANDS.search(text) or any(c in text for c in "([{"):
        inside = re.fullmatch(r"\s*[-+]?\d{1,3}(?:,\d{3})+(?:\.\d+)?\s*", text)
        return text.replace(",", "") if inside else text
    return _THOUSANDS.sub(lambda m: m.group().replace(",", ""), text)


def without_degrees(text: str) -> str:
    """Without degree signs and the word: an angle is its number of degrees, but in a sine and the like its value."""
    if _TRIGONOMETRIC.search(text):
        text = _IN_DEGREES.sub(r"(\\frac{\1\\pi}{180})", text)
    return re.sub(r"(?<=[\d} ])\s*degrees?\b", "", _DEGREES.sub("", text)).strip()


def split_percent(text: str) -> tuple[str, bool]:
    """The text without a percent sign or word at its end, and whether there was one."""
    found = _PERCENT.search(text)
    return (text[: found.start()].strip(), True) if found and found.start() > 0 else (text, False)


_THINGS = re.compile(r"(.*[\d}])\s+(?!is\b|or\b|not\b|and\b|to\b)([A-Za-z]{2,}(?:[ -][A-Za-z]+)*)")
_ASIDE = re.compile(r"(.*[\d}])\s*\([A-Za-z][A-Za-z -]*\)")


def without_words(text: str) -> str:
    """A number without what is said of it: `12 (twelve)`, `2/3 of the cake`."""
    found = _ASIDE.fullmatch(text) or _THINGS.fullmatch(text)
    return found.group(1).strip() if found else text


def split_unit(text: str) -> tuple[str, str | None]:
    """A number and the unit after it, in one spelling (`5 meters^2` -> `5`, `m^2`); (text, None) without a unit."""
    found = _UNIT.search(text)
    if found is None or not re.search(r"\d", text[: found.start()]):
        return text, None
    word = found.group(1)
    # A letter right after the number is a variable (5x), a word a unit; "5 m" with a space could be either.
    spaced = text[found.start() : found.start(1)] != ""
    power = found.group(2)
    unit = _unit_name(word)
    if unit is None or (len(word) == 1 and not spaced):
        return text, None
    return text[: found.start()].strip(), f"{unit}^{power}" if power else unit


_UNITS = {
    "m": "m meter meters metre metres",
    "cm": "cm centimeter centimeters centimetre centimetres",
    "mm": "mm millimeter millimeters millimetre millimetres",
    "km": "km kilometer kilometers kilometre kilometres",
    "in": "in inch inches",
    "ft": "ft foot feet",
    "yd": "yd yard yards",
    "mi": "mile miles",
    "s": "s sec secs second seconds",
    "min": "min mins minute minutes",
    "h": "h hr hrs hour hours",
    "day": "day days",
    "week": "week weeks",
    "month": "month months",
    "year": "year years yr yrs",
    "g": "g gram grams",
    "kg": "kg kilogram kilograms",
    "mg": "mg milligram milligrams",
    "lb": "lb lbs pound pounds",
    "oz": "oz ounce ounces",
    "l": "l liter liters litre litres",
    "ml": "ml milliliter milliliters millilitre millilitres",
    "gal": "gallon gallons",
    "mph": "mph",
    "km/h": "kmh kph km/h km/hr",
    "m/s": "m/s",
    "cent": "cent cents",
    "dollar": "dollar dollars usd",
    "euro": "euro euros eur",
    "unit": "unit units",
}
_CANONICAL = {name: unit for unit, names in _UNITS.items() for name in names.split()}
_AREA = {"square": "^2", "sq": "^2", "cubic": "^3", "cu": "^3"}


def _unit_name(word: str) -> str | None:
    first, _, rest = word.lower().replace(".", "").partition(" ")
    if first in _AREA and rest:
        base = _unit_name(rest)
        return None if base is None else base + _AREA[first]
    plain = " ".join(word.split())
    if " per " in plain:
        top, bottom = plain.split(" per ", 1)
        return f"{_unit_name(top) or top.lower()}/{_unit_name(bottom) or bottom.lower()}"
    found = _CANONICAL.get(plain.lower().replace(" ", ""))
    if found is not None:
        return found
    # A word of three letters or more is a thing that is counted (apples); shorter ones are variables.
    return plain.lower() if len(plain) >= 3 and plain.isalpha() else None


def read_rational(text: str) -> Fraction | None:
    """The rational number that the text is: an integer, a decimal, a fraction in either writing, a mixed number."""
    text = text.strip()
    if not text or len(text) > MAX_NUMBER:
        return None
    try:
        if _NUMBER.fullmatch(text):
            return Fraction(text.rstrip("."))
        if _SCIENTIFIC.fullmatch(text):
            return Fraction(text)
        found = _REPEATING.fullmatch(text)
        if found:
            sign, whole, fixed, period = found.groups()
            nines = (10 ** len(period) - 1) * 10 ** len(fixed)
            repeated = Fraction(int(whole + fixed + period) - int(f"0{whole}{fixed}"), nines)
            return -repeated if sign else repeated
        mixed = _MIXED.fullmatch(text) or _PLAIN_MIXED.fullmatch(text)
        if mixed:
            sign, whole, top, bottom = [value for value in mixed.groups() if value is not None]
            value = int(whole) + Fraction(int(top), int(bottom))
            return -value if sign else value
        found = _FRAC.fullmatch(text)
        if found:
            sign, top, bottom = [value for value in found.groups() if value is not None]
            return Fraction(int(top), int(bottom)) * (-1 if sign == "-" else 1)
        found = _SLASH.fullmatch(text)
        if found:
            return Fraction(found.group(1)) / Fraction(found.group(2))
    except (ValueError, ZeroDivisionError):
        return None
    return None


def mixed_to_sum(text: str) -> str:
    r"""Mixed numbers as sums, `1\frac{4}{5}` -> `(1+\frac{4}{5})`: symbolic readers take them for products."""

    def spell(found: re.Match[str]) -> str:
        sign, whole, top, bottom = [value for value in found.groups() if value is not None]
        return rf"{sign}({whole}+\frac{{{top}}}{{{bottom}}})"

    return _MIXED.sub(spell, text)
