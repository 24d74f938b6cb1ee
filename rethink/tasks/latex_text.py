r"""Mathematical answers as text: one spelling for what is written in many ways, and the words beside a number.

Every step is linear in the text, and the text is bounded before the first.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable

# Raised and lowered characters become powers and indices before NFKC would turn "2²" and "2₂" into "22".
_RAISED = dict(zip("⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺⁼⁽⁾ⁿⁱᵃᵇᶜᵈᵉᶠᵍʰʲᵏˡᵐᵒᵖʳˢᵗᵘᵛʷˣʸᶻ", "0123456789-+=()niabcdefghjklmoprstuvwxyz", strict=True))
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
    r"\\(?:text|textbf|textit|textrm|textnormal|textsuperscript|mathrm|mathbf|mathit|mathsf|operatorname|mbox|hbox|bm|rm)\s*\{([^{}]*)\}"
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
    # Three full stops continue a number: 0.3... is not 0.3.
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
    """Without white space and without quotation marks around the whole; a single mark is kept (5 inches)."""
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
    """The elements of a list, separated by commas and semicolons outside brackets."""
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
