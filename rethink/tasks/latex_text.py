r"""Mathematical answers as text: one spelling for what is written in many ways, and the words beside a number.

Every step is linear in the text, and the text is bounded before the first.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable

# Raised and lowered characters become powers and indices before NFKC would turn "2²" and "2₂" into "22".
_RAISED = dict(zip("⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺⁼⁽⁾ⁿⁱᵃᵇᶜᵈᵉᵏᵐᵖᵗˣʸᶻ", "0123456789-+=()niabcdekmptxyz", strict=True))
_LOWERED = dict(zip("₀₁₂₃₄₅₆₇₈₉₋₊₌₍₎ₙₐₑₓᵢⱼₖₗₘₚᵣₛₜ", "0123456789-+=()naexijklmprst", strict=True))
_SUPERSCRIPT = re.compile(f"[{''.join(_RAISED)}]+")
_SUBSCRIPT = re.compile(f"[{''.join(_LOWERED)}]+")
_SYMBOLS = {
    **dict.fromkeys("−–—‐‑‒﹣⁃˗➖", "-"),
    **dict.fromkeys("×✕✖⨯", r"\times "),
    **dict.fromkeys("·⋅•‧∙", r"\cdot "),
    **dict.fromkeys("≤⩽≦", r"\le "),
    **dict.fromkeys("≥⩾≧", r"\ge "),
    **dict.fromkeys("△▲", r"\triangle "),
    **dict.fromkeys("′ʹ", "'"),
    "″": "''",
    "∣": "|",
    "∗": "*",
    "÷": "/",
    "π": r"\pi ",
    "∞": r"\infty ",
    "≠": r"\ne ",
    "∪": r"\cup ",
    "∩": r"\cap ",
    "∈": r"\in ",
    "±": r"\pm ",
    "∅": r"\emptyset ",
    "°": r"^\circ ",
    "º": r"^\circ ",
    "℃": r"^\circ C",
    "℉": r"^\circ F",
    "∠": r"\angle ",
    "⊙": r"\odot ",
    "∨": r"\lor ",
    "∧": r"\land ",
    "∖": r"\setminus ",
    "→": r"\to ",
    "∥": r"\parallel ",
    "⊥": r"\perp ",
    "∂": r"\partial ",
    "⌊": r"\lfloor ",
    "⌋": r"\rfloor ",
    "⌈": r"\lceil ",
    "⌉": r"\rceil ",
    "ℝ": r"\mathbb{R}",
    "ℤ": r"\mathbb{Z}",
    "ℕ": r"\mathbb{N}",
    "ℚ": r"\mathbb{Q}",
    "ℂ": r"\mathbb{C}",
}
_SYMBOL = re.compile("|".join(_SYMBOLS))
_GREEK_NAMES = (
    "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi omicron pi rho varsigma sigma tau "
    "upsilon phi chi psi omega phi epsilon Gamma Delta Theta Lambda Xi Pi Sigma Upsilon Phi Psi Omega"
).split()
_GREEK_LETTERS = {
    letter: rf"\{name} " for letter, name in zip("αβγδεζηθικλμνξοπρςστυφχψωϕϵΓΔΘΛΞΠΣΥΦΨΩ", _GREEK_NAMES, strict=True)
}
_GREEK_LETTER = re.compile("|".join(_GREEK_LETTERS))
# "1½" is a mixed number; normalised at once it would be 11/2.
_AFTER_WHOLE = re.compile(r"(?<=\d)(?=[\u00bc-\u00be\u2150-\u215e])")
_ROOT = re.compile(r"([√∛∜])\s*(?:(\d+(?:\.\d+)?|[A-Za-zα-ω])|(?=[({]))")
_ROOTS = {"√": r"\sqrt", "∛": r"\sqrt[3]", "∜": r"\sqrt[4]"}
# Two backslashes end a row of a matrix: the second one begins no command. A tilde is a space only after something:
# "~5" is about five.
_SPACES = re.compile(
    r"(?<!\\)\\[,;:! ]|(?<!\\)\\(?:quad|qquad|thinspace|displaystyle|limits|hspace\{[^{}]*\})(?![A-Za-z])"
    r"|(?<=[\w}])~(?=[\\A-Za-z])"
)
_THIN = re.compile(
    r"(?<=\d)\s*,\s*\\!\s*(?=\d{3})|(?<=\d)\s*\{,\}\s*(?=\d{3})|(?<=\d)\s*(?<!\\)\\[,!]\s*(?=\d{3}(?!\d))"
)
_BRACKETS = re.compile(r"\\(?:left|right|[bB]igg?[lr]?)(?![A-Za-z])\.?")
_FRACTIONS = re.compile(r"\\[dtc]frac(?![A-Za-z])")
_STYLES = re.compile(
    r"\\(?:text|textbf|textit|textrm|textnormal|mathrm|mathbf|mathit|mathsf|operatorname|mbox|hbox|bm|rm)\s*\{([^{}]*)\}"
)
_DEGREES = re.compile(r"\^\s*(?:\{\s*\\(?:circ|degree)\s*\}|\\(?:circ|degree)(?![A-Za-z]))|\\degree(?![A-Za-z])")
_TRIGONOMETRIC = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc)(?![A-Za-z])")
_IN_DEGREES = re.compile(r"(\d+)\s*" + _DEGREES.pattern)
_AND = re.compile(r"\s*,?\s*\b(?:and|or|und|et)\b\s*", re.IGNORECASE)
_OR = re.compile(r"\s*,?\s*(?<!\\)\bor\b\s*", re.IGNORECASE)
_ALSO = re.compile(r"\s*,?\s*(?<!\\)\band\b\s*", re.IGNORECASE)
_OR_SIGN = re.compile(r"\\(?:lor|vee)(?![A-Za-z])")
_AND_SIGN = re.compile(r"\\(?:land|wedge)(?![A-Za-z])")
_RELATIONS = {"<=": r"\le ", ">=": r"\ge ", "!=": r"\ne "} | {
    rf"\{name}": rf"\{short}"
    for short, names in (("le", "leq leqslant leqq"), ("ge", "geq geqslant geqq"), ("ne", "neq"))
    for name in names.split()
}
# "5!=120" says what a factorial is.
_RELATION = re.compile(r"<=(?!=)|>=(?!=)|(?<![\d)}\s])!=|\\(?:leqslant|leqq|leq|geqslant|geqq|geq|neq)(?![A-Za-z])")
_INEQUALITY = re.compile(r"[<>]|\\(?:le|ge|ne|lt|gt)(?![A-Za-z])")
MAX_ROOT = 600
"""Characters under a root sign."""
_THOUSANDS = re.compile(r"(?<![\d.,])\d{1,3}(?:,\d{3})+(?![\d,])")
_CURRENCY = re.compile(r"\\\$|[$€£¥₹]|\\(?:pounds|euro)(?![A-Za-z])")
_UNIT = re.compile(
    r"(?<=[\d})])\s*((?:(?:square|cubic|sq|cu)\.?\s+)?[A-Za-zµ]+(?:\s*/\s*[A-Za-z]+|\s+per\s+[A-Za-z]+)?)"
    r"(?:\s*\^\s*\{?([23])\}?)?\s*\.?\s*$"
)
_MIXED = re.compile(r"(-?)(\d+)\s*\\frac\s*(?:\{\s*(\d+)\s*\}|(\d))\s*(?:\{\s*(\d+)\s*\}|(\d))")


def one_spelling(text: str) -> str:
    r"""The answer with one spelling for symbols, spaces, brackets, fractions, thousands, `\text{}` and "and"."""
    text = _AFTER_WHOLE.sub(" ", plain_symbols(text))
    text = unicodedata.normalize("NFKC", text).replace("⁄", "/").replace("、", ",")
    text = _GREEK_LETTER.sub(lambda m: _GREEK_LETTERS[m.group()], text)
    text = without_delimiters(text)
    text = _THIN.sub("", text)
    text = plain_commands(text)
    text = _SPACES.sub(" ", text)
    text = text.replace("\\langle", "(").replace("\\rangle", ")").replace("\\log_e ", "\\ln ")
    text = unquoted(_CURRENCY.sub("", text))
    # Three full stops go on: 0.3... is not 0.3.
    text = text.rstrip(" .;,。") if not text.endswith(("\\.", "..", ". .")) else text
    text = unquoted(without_styles(text, _spaced))
    text = re.sub(r"\*\*([^*]*)\*\*", r"\1", text) if text.startswith("**") else text
    text = _outside_brackets(_connected(text))
    return " ".join(text.split())


def _connected(text: str) -> str:
    r"""With commas for "and" and "or"; between inequalities, where the two differ, with `\land` and `\lor`."""
    text = _AND_SIGN.sub(" and ", _OR_SIGN.sub(" or ", text))
    if _INEQUALITY.search(text):
        return _OR.sub(r" \\lor ", _ALSO.sub(r" \\land ", text))
    return _AND.sub(", ", text) if re.search(r"[\w}) ]\s*,?\s*\b(?:and|or|und|et)\s", text, re.IGNORECASE) else text


def plain_symbols(text: str) -> str:
    r"""Raised and lowered text as `^{…}` and `_{…}`, every dash as a hyphen, symbols and roots as LaTeX.

    Characters that nobody sees (zero width, direction) are left out.
    """
    if not text.isascii():
        text = "".join(c for c in text if unicodedata.category(c) != "Cf" and not "\ufe00" <= c <= "\ufe0f")
        text = _SUPERSCRIPT.sub(lambda m: f"^{{{''.join(_RAISED[c] for c in m.group())}}}", text)
        text = _SUBSCRIPT.sub(lambda m: f"_{{{''.join(_LOWERED[c] for c in m.group())}}}", text)
        text = _roots(text)
    return _RELATION.sub(lambda m: _RELATIONS[m.group()], _SYMBOL.sub(lambda m: _SYMBOLS[m.group()], text))


def _roots(text: str) -> str:
    r"""`√2`, `√(x+1)` and `∛2` as `\sqrt{2}`, `\sqrt{x+1}` and `\sqrt[3]{2}`."""
    pieces, at = [], 0
    for found in _ROOT.finditer(text):
        if found.start() < at:
            continue  # a root within a root: its brackets stay
        end, inner = found.end(), found.group(2)
        if inner is None:
            close = _closing(text, end)
            if close is None:
                continue
            inner, end = _roots(text[end + 1 : close]), close + 1
        pieces += [text[at : found.start()], _ROOTS[found.group(1)], f"{{{inner}}}"]
        at = end
    return "".join([*pieces, text[at:]])


def _closing(text: str, start: int) -> int | None:
    """Where the bracket that opens at `start` closes."""
    level = 0
    for place in range(start, min(len(text), start + MAX_ROOT)):
        level += (text[place] in "({[") - (text[place] in ")}]")
        if level == 0:
            return place
    return None


def plain_commands(text: str) -> str:
    r"""Without `\left`, `\right` and the like, and with `\frac` for each of its sizes."""
    return _FRACTIONS.sub(r"\\frac", _BRACKETS.sub("", text))


def unquoted(text: str) -> str:
    """Without white space and without quotation marks around the whole; a mark that stands alone stays (5 inches)."""
    text = text.strip()
    while len(text) > 2 and text[0] + text[-1] in _QUOTES and text[0] not in text[1:-1]:
        text = text[1:-1].strip()
    return text


_QUOTES = frozenset("\"\" '' `` “” ‘’ 「」 『』 «» „“ „” ‚‘ ‹› 《》 〈〉 【】 ”” ’’".split())


def without_styles(text: str, spell: str | Callable[[re.Match[str]], str]) -> str:
    r"""The text with `spell` (what `re.sub` takes) for every `\text{…}`, `\mathbf{…}` and the like."""
    for _ in range(3):  # styles within styles
        text, changed = _STYLES.subn(spell, text)
        if not changed:
            break
    return text


def _spaced(found: re.Match[str]) -> str:
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


def split_list(text: str) -> list[str]:
    """The elements of a list: what stands between commas and semicolons outside brackets."""
    parts, level, start = [], 0, 0
    for place, char in enumerate(text):
        level += (char in "([{") - (char in ")]}")
        if char in ",;" and level == 0:
            parts.append(text[start:place].strip())
            start = place + 1
    return [*parts, text[start:].strip()]


def without_degrees(text: str) -> str:
    """Without degree signs and the word: an angle is its number of degrees, but in a sine and the like its value."""
    if _TRIGONOMETRIC.search(text):
        text = _IN_DEGREES.sub(r"(\\frac{\1\\pi}{180})", text)
    return re.sub(r"(?<=[\d} ])\s*degrees?\b", "", _DEGREES.sub("", text)).strip()


def mixed_to_sum(text: str) -> str:
    r"""Mixed numbers as sums, `1\frac{4}{5}` -> `(1+\frac{4}{5})`: symbolic readers take them for products."""

    def spell(found: re.Match[str]) -> str:
        sign, whole, top, bottom = [value for value in found.groups() if value is not None]
        return rf"{sign}({whole}+\frac{{{top}}}{{{bottom}}})"

    return _MIXED.sub(spell, text)


# --- units, and words that may stand beside a number -----------------------------------------------------------------


def split_unit(text: str) -> tuple[str, str | None]:
    """An expression and the unit after it, in one spelling (`5 meters^2` -> `5`, `m^2`); (text, None) without one."""
    found = _UNIT.search(text)
    if found is None or not re.search(r"\d", text[: found.start()]):
        return text, None
    word = found.group(1)
    # A letter right after the number is a variable (5x), a word a unit; "5 m" with a space could be either.
    spaced = text[found.start() : found.start(1)] != ""
    power = found.group(2)
    unit = unit_name(word)
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
    "yd": "yd yds yard yards",
    "mi": "mile miles",
    "s": "s sec secs second seconds",
    "min": "min mins minute minutes",
    "h": "h hr hrs hour hours",
    "day": "day days",
    "week": "week weeks",
    "month": "month months",
    "year": "year years yr yrs",
    "g": "g gram grams",
    "kg": "kg kgs kilogram kilograms",
    "mg": "mg milligram milligrams",
    "lb": "lb lbs pound pounds",
    "oz": "oz ounce ounces",
    "l": "l liter liters litre litres",
    "ml": "ml milliliter milliliters millilitre millilitres",
    "gal": "gal gallon gallons",
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


def unit_name(word: str) -> str | None:
    """One spelling of a unit or of what is counted; None where the word is a variable or changes the number."""
    first, _, rest = word.lower().replace(".", "").partition(" ")
    if first in _AREA and rest:
        base = unit_name(rest)
        return None if base is None else base + _AREA[first]
    plain = " ".join(word.split())
    if " per " in plain:
        top, bottom = plain.split(" per ", 1)
        names = [unit_name(part) for part in (top, bottom)]
        return None if None in names else "/".join(map(str, names))
    found = _CANONICAL.get(plain.lower().replace(" ", ""))
    if found is not None:
        return found
    # A word of three letters or more is a thing that is counted (apples); shorter ones are variables.
    thing = len(plain) >= 3 and plain.isalpha() and plain.lower() not in _AREA and is_plain_word(plain)
    return plain.lower() if thing else None


SCALES = {
    "tens": 10,
    **dict.fromkeys(("dozen", "dozens"), 12),
    **dict.fromkeys(("hundred", "hundreds"), 100),
    **dict.fromkeys(("thousand", "thousands"), 1000),
    **dict.fromkeys(("lakh", "lakhs"), 10**5),
    **dict.fromkeys(("million", "millions"), 10**6),
    **dict.fromkeys(("crore", "crores"), 10**7),
    **dict.fromkeys(("billion", "billions"), 10**9),
    **dict.fromkeys(("trillion", "trillions"), 10**12),
    **dict.fromkeys(("万", "萬"), 10**4),
    **dict.fromkeys(("亿", "億"), 10**8),
    "百": 100,
    "千": 1000,
}
"""Words right after a number that multiply it."""
COUNTS = {
    word: value
    for value, word in enumerate(
        "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
        "seventeen eighteen nineteen".split()
    )
} | {
    word: 10 * value
    for value, word in enumerate("twenty thirty forty fifty sixty seventy eighty ninety".split(), start=2)
}
_ORDINALS = (
    "third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth thirteenth fourteenth fifteenth sixteenth "
    "seventeenth eighteenth nineteenth twentieth thirtieth fortieth fiftieth sixtieth seventieth eightieth ninetieth "
    "hundredth thousandth millionth billionth half quarter"
).split()
# Words beside a number that make it another number, a condition, a guess or no answer at all.
_CHANGING = (
    frozenset(
        """
    no not non nor neither never none nothing nobody nope nah without except excepting excluding excluded barring
    isnt arent wasnt werent doesnt dont didnt cant cannot couldnt wouldnt shouldnt wont aint
    wrong incorrect false untrue mistake mistaken error erroneous invalid impossible undefined unknown unsure
    uncertain guess guessed guessing maybe perhaps probable likely unlikely questionable doubtful doubt fake rejected
    retracted discarded reject discard disregard extraneous spurious inadmissible forbidden tbd todo pending dubious
    ignore ignored instead rather wait correction sorry oops hmm unless otherwise else
    however though although but yet unclear missing undetermined depends varies variable contradiction contradicts
    fails failed assume assumes assumed let alleged joking kidding lie lies random placeholder nonsense anything
    whatever
    than less lesser fewer least most greater higher lower smaller larger bigger above below beneath under over beyond
    exceeding exceeds exceed within between from to through thru until till up down upward upwards onward onwards
    minimum maximum max bound bounded inclusive exclusive and or xor any nearly almost about around approximate approx
    roughly circa ca ish give take estimated estimate estimation rounded rounding round roundish
    minus plus multiplied multiply multiplying divided divide dividing added add adding subtracted subtract
    subtracting product quotient remainder modulo mod modulus power powers powered exponent exponents exponential
    exponentiated
    raised squared cubed cube root sqrt radical factorial choose permute log ln lg logarithm exp sin cos tan sine
    cosine tangent cot csc cosec arcsin arccos arctan sinh cosh tanh floor ceiling ceil inverse inverted reciprocal
    opposite negative negatives negated neg absolute abs conjugate imaginary complex infinity infinite inf nan null
    percent permille permil promille promil mille bps basis double doubled doubling triple tripled
    quadruple quadrupled quintuple twice thrice halved halve halves quartered fold folds repeating repeated
    repeats recurring recurs recur periodic ellipsis etc binary octal hex hexadecimal decimal base radix roman
    notation into by as if iff when whenever where whereas given provided assuming suppose supposing supposedly then
    while once because since so hence thus therefore implies is was were are be been being equals equal equaling
    equalling equality means mean becomes became has have had does do did can could may might must shall should will
    would seem seems seemed look looks appear appears after before off shy short debt deficit overdrawn loss bc bce
    alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi omicron pi rho sigma tau upsilon phi chi
    psi omega score scores gross grand myriad bn mn mil mio mrd couple pair nil
    january february march april may june july august september october november december
    monday tuesday wednesday thursday friday saturday sunday
    tysiąc tysiące tysięcy milion milionów
    mil millones millon millón mille milliard milliards milliarde milliarden millionen tausend hundert dutzend
    douzaine douzaines docena docenas ciento cientos cien centaine centaines moins menos weniger mehr mas más mal
    fois veces vez hoch carré cuadrado quadrat ou oder und et nicht pas kein keine ohne sans über unter wenn falls si
    demi demie medio media halb halbe tiers
    """.split()
    )
    | {form for word in _ORDINALS for form in (word, word + "s")}
    | {f"{word}s" for word in COUNTS}
    | set(COUNTS)
)
_MANNER = frozenset(
    "exactly precisely only daily weekly biweekly monthly yearly hourly quarterly annually family jelly".split()
)
_ABBREVIATED = frozenset(
    "lbs hrs mins secs kgs yds pcs pts mph kph kmh rpm fps ppm ppb kwh hz khz mhz ghz kpa mpa pa nm um µm μm dm cc cl "
    "dl kn kj kv mv kw mw db gb mb kb tb usd eur gbp cny rmb hkd jpy inr rs cm mm km kg mg ml oz lb ft in yd mi hr "
    "sq cu gal qt pt tsp tbsp ms ns ct pp am pm of on at an us my he we it our its his her their".split()
)
_JOINED = frozenset("cm mm km kg mg ml lb lbs oz ft mph kph kmh hr hrs min mins sec secs kwh pcs usd cents".split())
_LETTERS = frozenset("m g s h l L N W J V A".split())
_ALPHABET = "abcdefghijklmnopqrstuvwxyz"
_RUSSIAN = re.compile(
    r"тысяч|милли|сотен|сотн|дюжин|десят|полов|трет|четверт|процент|минус|плюс|мень|менее|больш|более|кроме|пример"
    r"|около|почти|умнож|делен|делит|квадрат|куб|степен|корен|(?:или|и|не|нет|до|от|раз|раза|как|если|где|сто)$"
)
_EASTERN_UNITS = re.compile(
    "(?:平方|立方)?(?:千米|千克|千瓦|千卡|公里|厘米|毫米|分米|米|メートル)|立方体|ドル|円|人民币"
)
_EASTERN_CHANGING = re.compile(
    "[非不没無无未否错錯误誤约約概左上下以超过多余餘几幾半负負减減加乘除方根模或且和与與及到至如若当可能许比折成的倒共"
    "零〇一二两三四五六七八九十百千万萬亿億兆]|分之|ない|만|천|백|억|이상|이하|미만|초과|아니|반|쯤|정도|약"
)
_EASTERN = re.compile("[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]+")
MAX_WORDS = 10
"""Words after a number."""


def is_plain_word(word: str) -> bool:
    """Whether a word beside a number leaves it as it is: `apples`, `per`, `kg`; not `million`, `wrong`, `xy`."""
    lower = word.lower()
    if lower in _CHANGING or lower in SCALES or lower.endswith(("n't", "n’t")):
        return False
    if lower.endswith("ly") and len(lower) > 3 and lower not in _MANNER:
        return False  # exactly or nearly, hopefully or impossibly: mostly a doubt
    if re.fullmatch("(?:sin|cos|tan|cot|csc|log|exp|sqrt)[xyznt]", lower) and lower != "cost":
        return False
    if lower in _ABBREVIATED or re.fullmatch(r"[A-Z]{2,4}s", word):
        return True
    if _EASTERN.fullmatch(word):
        return len(word) <= MAX_WORDS and not _EASTERN_CHANGING.search(_EASTERN_UNITS.sub("", word))
    if len(word) < 3 or (word.isupper() and len(word) < 4):
        return False
    if word.isascii():
        # Letters in their order are variables, and so is what cannot be spoken.
        return lower not in _ALPHABET and re.search("[aeiouy]", lower) is not None
    if all("\u0400" <= char <= "\u052f" for char in lower):
        return _RUSSIAN.match(lower) is None
    return all(char < "\u0250" or char in "'’" for char in lower)


def are_plain_words(words: list[str]) -> bool:
    """Whether what follows a number says only what it counts: `apples a day`, `km / h`, `of the cake`."""
    if len(words) > MAX_WORDS:
        return False
    return all(_fits(word, words, place) for place, word in enumerate(words))


def _fits(word: str, words: list[str], place: int) -> bool:
    word = word.partition("^")[0]  # cm^2
    lower = word.lower()
    before = words[place - 1].lower() if place else ""
    after = words[place + 1].lower() if place + 1 < len(words) else ""
    if word == "/":
        return bool(before) and bool(after)
    if lower in ("times", "time"):  # "5 times" counts, "5 times the price" multiplies
        return after in ("", "a", "an", "per", "each", "every") and not before
    if lower == "square" and not after:
        return True
    if lower in ("more", "square", "cubic", "sq", "cu", "of", "per", "the"):
        return len(after) > 2 or after in _ABBREVIATED or after in ("m", "g", "s", "h", "l")
    if lower in ("a", "an"):
        return len(after) > 1
    if lower == "for":
        return after in ("each", "every", "the")
    if lower == "percentage":
        return after in ("point", "points")
    if len(word) == 1 and not _EASTERN.fullmatch(word):
        return (
            word in _LETTERS
            and before in ("", "/", "per", "square", "cubic", "sq", "cu")
            and (after == "/" or len(after) != 1)
        )
    return is_plain_word(word)


def is_unit(word: str) -> bool:
    """Whether a word is a unit of measurement that has more than one letter."""
    return len(word) > 1 and word.lower() in _CANONICAL


def joined_unit(word: str) -> bool:
    """Whether a word may follow its number without a space: `5cm`, `5元`; `5x`, `5m` and `5pi` are products."""
    return word.lower() in _JOINED or _EASTERN.fullmatch(word) is not None


def unit_of(words: list[str]) -> str | None:
    """One spelling of the unit that words are; None where the words are no unit alone (`red apples`)."""
    words = [word for word in words if word.lower() not in ("degree", "degrees")]
    first, second = [*words, "", ""][:2]
    if not words or len(words) > 3 or not (len(words) == 1 or second in ("/", "per") or first in ("square", "cubic")):
        return None
    base, _, power = " ".join(words).replace(" / ", "/").partition("^")
    unit = unit_name(base)
    return f"{unit}^{power}" if unit and power else unit


def read_count(words: list[str]) -> int | None:
    """The number in English words or in digits; None where the words are none."""
    if len(words) == 1 and words[0].isascii() and words[0].isdigit() and len(words[0]) < 60:
        return int(words[0])
    total = part = 0
    words = [word.lower() for word in words if word.lower() not in ("and", "a")]
    for word in words:
        if word in COUNTS:
            part += COUNTS[word]
        elif word in ("hundred", "dozen"):
            part = max(part, 1) * SCALES[word]
        elif word in SCALES:
            total, part = total + max(part, 1) * SCALES[word], 0
        else:
            return None
    return total + part if words else None


_GREEK = r"\\(?:alpha|beta|gamma|delta|epsilon|theta|lambda|mu|nu|rho|sigma|tau|phi|varphi|psi|omega|ell|Delta|Omega)"
_LETTER = rf"(?:[A-Za-z]|{_GREEK}(?![A-Za-z]))"
_VARIABLE = re.compile(
    rf"(?:m?\s*(?:\\angle|∠|\\overline|\\triangle|△)\s*)?(?:\{{?\s*[A-Z]{{1,4}}\s*\}}?|{_LETTER})"
    r"(?:_(?:\w|\{\s*\w{1,12}\s*\}))?'{0,2}"
    r"(?:\(\s*(?:-?\d[\d./, ]{0,20}|[A-Za-z]|[A-Za-z]{2,20})\s*\))?"
    rf"|\|\s*[A-Z]{{2}}\s*\||\\(?:sin|cos|tan|cot|sec|csc)\s*(?:{_LETTER}|[{{(]\s*{_LETTER}\s*[)}}]|(?:\\angle|∠)?\s*[A-Z]{{1,3}})"
)
_ASKED = re.compile(r"\\(?:lim|int|sum|prod|max|min|gcd|lcm|det|sup|inf|oint|iint)(?![A-Za-z])[^<>≈≠]*")


def is_name(text: str) -> bool:
    r"""Whether a text names something that a number can be given to: `x`, `f(2)`, `\angle ABC`, `total cost`.

    `2x`, `x + y`, `xy`, `x^2`, `n!`, `half of x` name nothing: what equals them is not the answer.
    """
    text = text.strip().rstrip(":").strip()
    if _VARIABLE.fullmatch(text) or _ASKED.fullmatch(text):
        return True
    words = text.replace("\n", " ").split()
    if not 0 < len(words) <= MAX_WORDS or not re.fullmatch(r"[A-Za-z' ]+", " ".join(words)):
        return False
    if words[-1] in ("square", "cube") and "of" not in words:
        return False  # of the answer, or a figure
    named = [word for word in words if len(word) > 1]
    return any(len(word) > 2 for word in named) and all(is_plain_word(word) for word in named)
