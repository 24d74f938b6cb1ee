r"""The number that a text is: one strict notion for every checker of numbers.

The whole text must be a number in one of the usual spellings, with what people write around one: currency, percent,
degrees, a unit or what is counted, a name before an equals sign. Anything else is no number, however plainly a number
is part of it: `\sqrt{3}`, `3x`, `x > 3`, `3 million` (which is 3000000), `not 3`, `3 (wrong)`.

A number has at most 100 digits and a text 400 characters, powers are bounded, and nothing symbolic is involved, so
that hostile text costs little.
"""

from __future__ import annotations

import re
import unicodedata
from fractions import Fraction

from rethink.tasks.latex_text import plain_commands, plain_symbols, unquoted, without_styles
from rethink.tasks.quantity import Quantity
from rethink.tasks.units import MONEY, is_unit, joined_unit, measured, read_compound, unit_of
from rethink.tasks.words import COUNTS, SCALES, are_plain_words, is_name, read_count

MAX_TEXT = 400
"""Characters of a text that is read; longer ones are no number."""
MAX_DIGITS = 100
"""Digits of a number; longer ones are not read (reading digits takes quadratic time)."""
MAX_SIDES = 8
"""Sides of a chain of equals signs."""
MAX_DEPTH = 6
"""Brackets within brackets."""
CLOSE = Fraction(1, 20)
"""How far a number may be from what it is said to be about, as a share."""


def read_quantity(text: str) -> Quantity | None:
    r"""The number that the whole text is, with its unit, percent sign and name; None where it is none.

    In a chain (`x = 2 + 3 = 5`) all sides are names or have the same value. `22/7 \approx 3.14` is 22/7, and
    `x \approx 3.14` is 3.14.
    """
    text = text.strip()
    if not text or len(text) > MAX_TEXT or not any(char.isnumeric() for char in text):
        return None
    sides = sides_of(text)
    if len(sides) > MAX_SIDES:
        return None
    sides[-1], about, rounded = sides[-1].partition("≈")
    try:
        if not about:
            return _chain(sides)
        near = _quantity(_bare(rounded))
        if near is None or all(map(is_name, sides)):
            return near
        exact = _chain([*sides[:-1], _bare(sides[-1])])
    except ZeroDivisionError:
        return None
    if exact is None or not (is_name(sides[0]) or abs(exact.value - near.value) <= abs(exact.value) * CLOSE):
        return None
    return exact


def sides_of(text: str) -> list[str]:
    """The sides of the equals signs of a text, in one spelling."""
    text = _bare(_spelled(text))
    around = text[:1] + text[-1:]
    # ($5) is what a bookkeeper writes for -5.
    if around in ("[]", "()", "{}") and _money(text) is None and not any(char in text[1:-1] for char in around):
        text = text[1:-1] if not text[:-1].rstrip().endswith((",", ";")) else text
    sides = [_bare(side) for side in text.split("=")]
    return sides[1:] if len(sides) > 1 and not sides[0] else sides  # "= 5"


def _chain(sides: list[str]) -> Quantity | None:
    found, name, values = None, None, []
    for side in sides:
        quantity = _quantity(side)
        value = _proportion(quantity) if quantity is not None else _arithmetic(side)
        if value is not None:
            values.append(value)
            found = quantity or found
        elif not is_name(side):
            return None
        elif len(side) < 3 or not side[1:].isalpha():
            name = "".join(side.split())
    if found is None or _proportion(found) != values[-1] or len(set(values)) > 1:
        return None
    return found._replace(name=name)


# --- one spelling ----------------------------------------------------------------------------------------------------

_MONEY = "¤"
_MONEYS = "".join(MONEY)
_SIGNS = {
    "￥": "¥",
    "￡": "£",
    "￦": "₩",
    "\u2126": "Ω",
    "\u00b5": "μ",
    **dict.fromkeys("∕⁄", "/"),
    "∙": r"\cdot ",
    **dict.fromkeys("\u00a0\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u202f\u205f\u3000", " "),
    **dict.fromkeys("\n\r\t\v\f", "\n"),
}
_BOX = re.compile(r"\\(?:boxed|fbox)\s*(?=\{)")
_LATEX = (
    (re.compile(r"\\\$"), _MONEY),
    (re.compile(r"\\approx(?![A-Za-z])"), "≈"),
    (re.compile(r"\\[()\[\]]"), "\n"),
    (re.compile(r"\\(?:displaystyle|quad|qquad)(?![A-Za-z])"), "\n"),
    (re.compile(r"(?<=\d)(?:\{,\}|,?\s?\\!|,\\,)\s?(?=\d{3})"), ","),
    (re.compile(r"\\[,;: ]|(?<=[\w}\n])~(?=[A-Za-z\\\n])"), " "),
    (re.compile(r"\\[lr]?vert(?![A-Za-z])"), "|"),
    (re.compile(r"(?<=[\d\s}])([kM]?)\s*\\Omega(?![A-Za-z])"), r" \1Ω"),
    (re.compile(r"(?<=[\d\s}])\\mu\s*(?=[mgsFCA](?![A-Za-z]))"), " μ"),
    (re.compile(r"\\!"), ""),
)


def _spelled(text: str) -> str:
    r"""One spelling of digits, signs, spaces and LaTeX; a newline parts what must not be read together as digits."""
    text = "".join(_SIGNS.get(char) or _digit(char) for char in plain_symbols(text))
    text = without_styles(plain_commands(text), "\n\\1\n")
    text = _BOX.sub("\n", text)
    for pattern, plain in _LATEX:
        text = pattern.sub(plain, text)
    # Dollar signs in pairs are delimiters; one alone is money.
    return text.replace("$", "\n" if text.count("$") % 2 == 0 else _MONEY)


def _digit(char: str) -> str:
    if char.isascii():
        return char
    if "\uff01" <= char <= "\uff5e":  # full width
        return chr(ord(char) - 0xFEE0)
    if unicodedata.category(char) == "Nd":
        return str(unicodedata.decimal(char))
    if "\u3380" <= char <= "\u33df":  # units in one character
        return " " + unicodedata.normalize("NFKC", char)
    if unicodedata.category(char) == "No" and "FRACTION" in unicodedata.name(char, ""):
        top, stroke, bottom = unicodedata.normalize("NFKC", char).partition("⁄")
        return rf"\frac{{{top}}}{{{bottom}}}" if stroke and bottom else char
    return char


_MARKED = re.compile(r"(\*\*\*|\*\*|\*|___|__|_)(?=[^\s*_])([^*_]*[^\s*_]\n?)\1")


def _bare(text: str) -> str:
    """Without marks of emphasis, quotes and a full stop at the end."""
    text = text.strip()
    for _ in range(4):
        before = text
        if text.endswith(tuple(".,;。，；")) and not (bare := text[:-1].rstrip()).endswith((".", "…")):
            text = bare
        found = _MARKED.match(text)
        if found and (found.end() == len(text) or len(found.group(1)) > 1):
            text = f"{found.group(2)}\n{text[found.end() :]}".strip()
        text = unquoted(text)
        if text == before:
            break
    return text


# --- numbers ---------------------------------------------------------------------------------------------------------

_SPACE = re.compile(r"\s*")
_SIGN = re.compile(rf"\s*([-+])\s*|\s*(?:(?i:minus|negative))\s+(?=[\d.\\{_MONEYS}({{|])")
_DIGITS = re.compile(
    r"(?:[1-9]\d{0,2}(?:,\d{3})+(?!,?\d)|[1-9]\d{0,2}(?: \d{3})+(?! ?\d|\s*/)|\d+)(?:\.\d+)?(?![\d.])|\.\d+(?![\d.])",
    re.ASCII,
)
_REPEATING = re.compile(r"(\d{1,30})?\.(\d{0,30})\\overline\s*\{\s*(\d{1,30})\s*\}", re.ASCII)
_EXPONENT = re.compile(
    r"[eE]([-+]?\d{1,2})(?!\d)|\s*(?:\\times|\\cdot|\\ast|\*|[xX]|times\s)\s*10\s*(?:\^|\*\*)\s*(?:\{\s*([-+]?\d{1,2})\s*\}|([-+]?\d{1,2})(?!\d))",
    re.ASCII,
)
_POWER = re.compile(r"\s*(?:\^|\*\*)\s*(?:\{\s*([-+]?\d{1,3})\s*\}|(-?\d{1,3})(?!\d))(?!\s*(?:\^|\*\*))", re.ASCII)
_ARGUMENT = r"\s*(?:\{\s*(-?\d{1,60}(?:\.\d{1,60})?)\s*\}|(\d))"
_FRACTION = re.compile(r"\s*\\frac" + _ARGUMENT + _ARGUMENT, re.ASCII)
_STROKE = re.compile(r"[ \n]?/[ \n]?(?=[\d.({])")
_AFTER_WHOLE = re.compile(r"(?<=\d)[ \n](\d{1,30})\s?/\s?(\d{1,30})(?!\d)", re.ASCII)
_CLOSING = {"(": ")", "{": "}", "|": "|"}


class _Scan:
    """A place in a text from which numbers are read; what cannot be read raises `_NoNumber`."""

    def __init__(self, text: str) -> None:
        self.text, self.at, self.written = text, 0, ""

    def take(self, pattern: re.Pattern[str]) -> re.Match[str] | None:
        found = pattern.match(self.text, self.at)
        if found is not None:
            self.at = found.end()
        return found

    def signed(self, depth: int = 0, money: bool = True) -> Fraction:
        sign = self.take(_SIGN)
        if money:
            self.take(_CURRENCY)
        again = None if sign else self.take(_SIGN)  # $-5
        value = self.unsigned(depth)
        negative = any(found is not None and found.group(1) != "+" for found in (sign, again))
        self.written = "-" + self.written if negative and self.written else self.written
        return -value if negative else value

    def unsigned(self, depth: int) -> Fraction:
        """A power or a fraction of what is in brackets or of digits."""
        value = self._power(self._atom(depth))
        while self.take(_STROKE):
            value, self.written = value / self._power(self._atom(depth)), ""
        return value

    def _atom(self, depth: int) -> Fraction:
        self.take(_SPACE)
        opening = self.text[self.at : self.at + 1]
        if opening in _CLOSING and opening:
            if depth >= MAX_DEPTH:
                raise _NoNumber
            self.at += 1
            value = self.signed(depth + 1, money=opening == "{")
            self.take(_SPACE)
            if self.text[self.at : self.at + 1] != _CLOSING[opening]:
                raise _NoNumber
            self.at += 1
            self.written = "" if opening == "|" else self.written
            return abs(value) if opening == "|" else value
        return self._digits()

    def _digits(self) -> Fraction:
        self.written = ""
        found = self.take(_REPEATING)
        if found:
            whole, fixed, period = (part or "" for part in found.groups())
            nines = (10 ** len(period) - 1) * 10 ** len(fixed)
            return Fraction(int(whole + fixed + period) - int(f"0{whole}{fixed}"), nines)
        if found := self.take(_FRACTION):
            return _ratio(found)
        found = self.take(_DIGITS)
        if found is None or len(found.group()) > MAX_DIGITS:
            raise _NoNumber
        digits = found.group().replace(",", "").replace(" ", "")
        if digits.isdigit():
            mixed = self.take(_AFTER_WHOLE)
            part = Fraction(int(mixed.group(1)), int(mixed.group(2))) if mixed else None
            if part is None and (fraction := self.take(_FRACTION)):
                part = _ratio(fraction)
            if part is not None:
                if not 0 <= part < 1:
                    raise _NoNumber
                return int(digits) + part
        if scientific := self.take(_EXPONENT):
            return Fraction(digits) * Fraction(10) ** int(next(filter(None, scientific.groups())))
        self.written = digits
        return Fraction(digits)

    def _power(self, value: Fraction) -> Fraction:
        found = self.take(_POWER)
        if found is None:
            return value
        exponent = int(found.group(1) or found.group(2))
        bits = max(value.numerator.bit_length(), value.denominator.bit_length())
        if bits * abs(exponent) > 4 * MAX_DIGITS:
            raise _NoNumber
        self.written = ""
        return value**exponent


class _NoNumber(Exception):
    """The text is no number."""


def _ratio(found: re.Match[str]) -> Fraction:
    top, bottom = (part for part in found.groups() if part is not None)
    return Fraction(top) / Fraction(bottom)


_OPERATOR = re.compile(r"\s*(\\times|times(?=\s*[\d.(])|\\cdot|\\ast|\\div|\\b?mod(?![A-Za-z])|[-+*/xX])\s*")
_HUNDREDTHS = re.compile(r"\s*\\?%")


def _arithmetic(text: str) -> Fraction | None:
    """The value of sums, differences, products and quotients of numbers; None where the text is none."""
    scan = _Scan(_MONEY_SIGN.sub("", _after_lead(text)))
    try:
        value = _sum(scan, 0)
    except _NoNumber:
        return None
    return value if scan.at == len(scan.text) else None


def _sum(scan: _Scan, depth: int) -> Fraction:
    total, term = Fraction(0), _term(scan, depth)
    while found := scan.take(_OPERATOR):
        operator = found.group(1)
        if operator in "+-":
            total, term = total + term, _term(scan, depth) * (1 if operator == "+" else -1)
        elif operator in ("/", "\\div"):
            term /= _term(scan, depth)
        elif "mod" in operator:
            term %= _term(scan, depth)
        else:
            term *= _term(scan, depth)
        if term.numerator.bit_length() + term.denominator.bit_length() > 8 * MAX_DIGITS:
            raise _NoNumber
    return total + term


def _term(scan: _Scan, depth: int) -> Fraction:
    start = scan.at
    try:
        value = scan.signed()
    except _NoNumber:
        scan.at = start
        scan.take(_SPACE)
        if scan.text[scan.at : scan.at + 1] != "(" or depth >= MAX_DEPTH:
            raise
        scan.at += 1
        value = _sum(scan, depth + 1)
        scan.take(_SPACE)
        if scan.text[scan.at : scan.at + 1] != ")":
            raise
        scan.at += 1
    return value / 100 if scan.take(_HUNDREDTHS) else value


# --- what stands before and after a number ---------------------------------------------------------------------------

_CURRENCY = re.compile(
    rf"\s*(?:(?:(?:US|AU|NZ|HK|CA|NT|[ACS])\s?)?[{_MONEYS}]|(?:USD|EUR|GBP|CNY|RMB|JPY|INR|CHF|Rs)\.?\s+(?=[\d.]))\s*"
)
_MONEY_SIGN = re.compile(f"[{_MONEYS}]")
_MONEY_CODE = re.compile(r"\s*[-+]?\s*(USD|EUR|GBP|CNY|RMB|JPY|INR|CHF|Rs)(?![A-Za-z])")


def _money(text: str) -> str | None:
    """The money that a text is an amount of, by its sign or the code before the number."""
    if found := _MONEY_SIGN.search(text):
        return MONEY[found.group()]
    code = _MONEY_CODE.match(text)
    return unit_of([code.group(1)]) if code else None


_CONNECTIVE = re.compile(
    r"(?:(?:so|thus|therefore|hence|then)\b|∴|所以|因此),?，?\s*|the\s+(?=\d{1,9}(?:st|nd|rd|th)\b)|(?:exactly|precisely|just|only)\s+(?=[-+\d"
    + _MONEYS
    + "])",
    re.IGNORECASE,
)
_LABEL = re.compile(
    r"([A-Za-z][A-Za-z' ]{0,60}?)\s*(?::|\b(?:(?:is|are) equal to|is|are|was|were|equals|will be|has|have|had|makes|"
    r"earns|costs|gets|got|needs|pays|takes|spends|sells|becomes)(?![A-Za-z])):?(?=[\s\d.\\({|+"
    + _MONEYS
    + r"-])|(answer|ans|result|total|sum)\b\.?(?= *\n? *[-+\d\\.{"
    + _MONEYS
    + r"])|((?:最终|最后)?(?:的)?(?:答案|结果|答)(?:是|为|：|:)+"
    r"|(?:一?共|总共|总计)(?:有|是)?)",
    re.IGNORECASE,
)
_PRONOUNS = frozenset("i he she it we they you".split())


def _after_lead(text: str) -> str:
    """Without words that only lead to a number: `the answer is`, `Total:`, `she has`."""
    text = text[found.end() :] if (found := _CONNECTIVE.match(text)) else text
    found = _LABEL.match(text)
    if found is None:
        return text
    subject, rest = found.group(1), text[found.end() :]
    if subject is None or subject.lower() in _PRONOUNS:
        return rest
    # "x:5" is a ratio, "x: 5" is not.
    ratio = found.group().endswith(":") and len(subject) < 3 and not rest[:1].isspace()
    return rest if is_name(subject) and not ratio else text


_PERCENT = re.compile(r"\s*(?:\\?%|(?:per\s?cent|pct|percentage(?!\s+points?))(?![A-Za-z]))", re.IGNORECASE)
_DEGREE = re.compile(r"\s*(?:\^\s*(?:\{\s*\\circ\s*\}|\\circ)|\\degree)(?:\s*([CF])(?![A-Za-z]))?")
_TEMPERATURES = {"C": "celsius", "F": "fahrenheit", "": "degree"}
_ORDINAL = re.compile(r"[\s-]?(?:\^\s*\{?\s*)?(st|nd|rd|th)\s*\}?(?![A-Za-z])")
_SCALE = re.compile(r"\s*([A-Za-z]+(?![A-Za-z-])|[百千万萬亿億](?![米克瓦卡]))")


def _quantity(text: str) -> Quantity | None:
    scan = _Scan(_after_lead(text))
    if compound := read_compound(scan.text.replace("\n", " ")):
        return Quantity(*compound[:1], unit=compound[1], unit_needed=True)
    money = _money(scan.text)
    try:
        value = scan.signed()
    except _NoNumber:
        return None
    written, unit = scan.written, None
    percent = scan.take(_PERCENT) is not None
    if not percent and (degree := scan.take(_DEGREE)):
        unit = _TEMPERATURES.get(degree.group(1) or "")
    elif not percent and (ordinal := _ORDINAL.match(scan.text, scan.at)) and _is_ordinal(value, ordinal.group(1)):
        scan.at = ordinal.end()
    elif not percent:
        while (found := _SCALE.match(scan.text, scan.at)) and found.group(1).lower() in SCALES:
            value, written, scan.at = value * SCALES[found.group(1).lower()], "", found.end()
    scan.take(_CURRENCY)
    words = _words(scan.text[scan.at :], value)
    if words is None or (money and words and len(words[0]) == 1 and words[0] != "a"):
        return None  # $5 m is five millions
    if measured(words) is None and not are_plain_words(words):
        return None
    return Quantity(value, written, percent, unit if percent or unit else money or unit_of(words))


def _proportion(quantity: Quantity) -> Fraction:
    return quantity.value / 100 if quantity.percent else quantity.value


def _is_ordinal(value: Fraction, ending: str) -> bool:
    last, teen = int(value) % 10, int(value) % 100 in (11, 12, 13)
    return value.denominator == 1 and ending == ({1: "st", 2: "nd", 3: "rd"}.get(last, "th") if not teen else "th")


_TOKEN = re.compile(
    r"\s*(?:\(([^()]{1,60})\)|([\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]+|(?:(?![\u3040-\u9fff\uac00-\ud7af])[^\W\d_])+"
    r"(?:['’][^\W\d_]+)?)\.?|(/)|-(?=[A-Za-z]))"
)
_HALF_DAY = re.compile(r"\b([ap])\.\s?m\b\.?", re.IGNORECASE)
_AFFIRMED = re.compile(r"\s+is\s+(?:the\s+|my\s+)?(?:correct|right|(?:final\s+|correct\s+)?(?:answer|result|total))$")
_UNIT_POWER = re.compile(r"\s*\^\s*(?:\{\s*([23])\s*\}|([23]))")
_COUNTING = {*COUNTS, *SCALES, "a", "and"}


def _words(rest: str, value: Fraction) -> list[str] | None:
    """The words after a number, without asides that fit; None if the text after it is something else."""
    words: list[str] = []
    at = 0
    rest = _HALF_DAY.sub(r"\1m", _AFFIRMED.sub("", rest).rstrip())
    while at < len(rest):
        found = _TOKEN.match(rest, at)
        if found is None or len(words) > 2 * MAX_SIDES:
            return None
        aside, word, stroke = found.groups()
        if aside is not None and not _aside_fits(aside, value):
            return None
        if word is not None and at == 0 and not rest[0].isspace() and not joined_unit(word):
            return None  # 5x
        if not (aside or word or stroke or words) and not is_unit(re.split(r"[^A-Za-z]", rest[1:])[0]):
            return None  # 5-inch, not 5-x
        if not (aside or word or stroke) and rest[at] != "-":
            return None  # 5 - inch
        at = found.end()
        power = _UNIT_POWER.match(rest, at) if word is not None else None
        if power is not None:
            at = power.end()
            if unit_of([word]) is None:
                return None
        if word or stroke:
            words.append((word or stroke) + (f"^{power.group(1) or power.group(2)}" if power else ""))
    return words


def _aside_fits(aside: str, value: Fraction) -> bool:
    """Whether an aside in round brackets leaves a number unchanged: `(ten)`, `(dollars)`, `(not eleven)`."""
    words = re.findall(r"[^\W_]+|\S", aside.replace("-", " "))
    if words[:1] == ["not"]:
        other = read_count(words[1:])
        return other is not None and other != value
    counted = 0
    while counted < len(words) and words[counted].lower() in _COUNTING:
        counted += 1
    if any(word.lower() not in ("a", "and") for word in words[:counted]):
        return read_count(words[:counted]) == value and are_plain_words(words[counted:])
    return bool(words) and are_plain_words(words)
