r"""The last value in a text, whole: a number never leaves behind a sign, a power, a bracket or a word that changes it.

    The temperature drops to −5 degrees.   −5
    The area is 12 cm^2.                   12
    The mass is about 3 x 10^4 kg.         about 3 x 10^4
    The point is (3, 4).                   (3, 4)
    He earns 5 million.                    5 million

Only that many characters beside the last digit are looked at as `NEAR` says, so the work does not grow with the text.
"""

from __future__ import annotations

import re

from rethink.tasks.units import is_unit, unit_of
from rethink.tasks.words import COUNTS, PARTS, SCALES

SEARCHED = 20_000
"""Characters at the end of a text in which a value is looked for."""
NEAR = 200
"""Characters before and after the last digit that may belong to its value; a longer one is none."""
MAX_SKIPPED = 32
"""Names with digits (`CO2`) and powers of units (`cm^2`) that are passed over."""
MAX_OPERANDS = 24
"""Operands of one expression; a longer one is no value."""

_FRACTIONS = "\u00bc-\u00be\u2150-\u215e"
_DIGIT = re.compile(rf"[\d{_FRACTIONS}]")
_EASTERN = "\u3001-\u303f\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"
_EDGE = re.compile(rf"[\s{_EASTERN}，\"“”‘’«»`;]")
_HYPHENS = str.maketrans(dict.fromkeys("−–‑‒﹣", "-"))
FULL_WIDTH = str.maketrans({chr(code): chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F) if chr(code) != "，"})
# Marks of emphasis and tags are no part of a value; each becomes as many spaces.
_MARKS = re.compile(
    r"</?[A-Za-z]{1,10}/?>|<<[^<>\n]{0,60}>>|(?<![\w)])\*{1,3}+(?=\S)|(?<=\S)\*{1,3}+(?![\w(\s])|(?<=[^\s*])\*{1,3}+(?=\s|$)"
    r"|(?<![^\W_])_{1,3}+(?=[^\s_])|(?<=\S)_{1,3}+(?![\w{])"
)
_CLOSERS = {"(": ")", "[": "]", "{": "}"}
_ONE_NUMBER = re.compile(r"[-+]?(?:\d{1,3}(?:,\d{3})*|\d*)(?:\.\d+)?(?:/\d+)?%?")
_WORD = re.compile(r"(?<![\\A-Za-z])(?!(?:sin|cos|tan|cot|sec|csc|log|ln|exp|sqrt|pi|mod|or|and)\b)[^\W\d_]{2,}")

_NAME = re.compile(rf"[^\W\d_{_FRACTIONS}²³¹]+\d{{1,8}}[^\W\d_]?")
_UNIT_POWER = re.compile(
    r"(?<=[\d\s})])(?:\\(?:text|mathrm|mbox|rm)\s*\{\s*)?([A-Za-zµ]{1,12}(?:/[A-Za-zµ]{1,8})?)(?:\s*\}?\s*\^\s*\{?-?\d\}?|\}?\d)$"
)
_JOINED_WORD = re.compile(
    r"([(\[]*-?\$?[\d.,]*\d)(?:-[^\W\d_]{2,}|([A-Za-zµ]{2,8})(?:\^\{?[23]\}?|[²³])(?!\w)|(m)[²³](?!\w))"
)
_OPERAND_ENDS = re.compile(rf"[\d)\]}}%π{_FRACTIONS}!]$|(?<![A-Za-z'’])[A-Za-z]$")
_OPERATORS = "+-*/×÷·∙⋅^"
_RELATIONS = "<>≤≥≠~±√∛"
_PLUS_WORD = re.compile(
    r"\b(?:times|plus|minus|over|divided by|multiplied by|by|point|mod|modulo|choose|less|in|r|remainder)$",
    re.IGNORECASE,
)
_RANGE_WORD = re.compile(
    r"(?:\d\S{0,20}(?:\s+[^\W\d_]{1,15})?\s+(?:or|to|through|till|until|versus|vs\.?)|\d(?:个|只)?[或至到])$"
)
_SHARE = re.compile(
    r"(?:\S{1,20}\s?(?:%|percent|per cent)|\d\S{0,20}\s+out|\d/\d{1,9}|\b(?:half|third|quarter|fourth|fifth|sixth|tenth"
    r"|root|square|cube|logarithm|factorial|twice|double|triple))\s+of$",
    re.IGNORECASE,
)
_MONTHS = (
    r"(?:Jan(?:uary)?|Feb(?:ruary)?|Mar(?:ch)?|Apr(?:il)?|May|June?|July?|Aug(?:ust)?|Sept?(?:ember)?|Oct(?:ober)?"
    r"|Nov(?:ember)?|Dec(?:ember)?)\.?"
)
_BEFORE = re.compile(
    rf"(?:(?<!\w)(?i:minus|negative|no|not|non|nope|never|neither|nor|none of|without"
    rf"|(?:any\w*(?: \w+)?|all|every\w*) but"
    rf"|(?:[a-z]+n['’]t|cannot|(?:do|does|did|can|could|would|should|may|must|will) not)(?: [a-z]+){{0,3}}"
    rf"|than|at least|at most|about"
    rf"|approximately|approx\.?|roughly|nearly|almost|around|maybe|perhaps|possibly|probably|under|below|above|exceeds"
    rf"|or [a-z]\s?=|between \S{{1,20}} and|beyond|within|up to|between|except|twice|double|triple|half|thrice"
    rf"|sqrt|log(?:_\S{{1,6}})?|ln|sin|cos|tan|base"
    rf"|modulo|mod|hundred|thousand|million|billion)|(?<!\w){_MONTHS}|[负負约約近]|不是|并非|大于|小于|超过|至少|至多|最多|少于"
    rf"|多于|\\(?:approx|pm|mp|leq?|geq?|neq?|lt|gt|sqrt))$"
)
_COUNTED = "|".join([*COUNTS, *(f"{part}s" for part in PARTS)])
_AFTER = re.compile(
    rf"\s?\\?%|\s?‰|[ \t]*(?:π\S{{0,20}}|\\pi(?![A-Za-z])|√\S{{0,20}}|pi\b)"
    rf"|(?:\s*-?\s*\b(?i:{'|'.join(sorted(SCALES, key=len, reverse=True))})\b){{1,3}}"
    r"|\s*[百千万萬亿億](?![米克瓦卡])|\s*(?:多|分之|以上|以下|以内|左右)"
    r"|\s*-?\b(?i:percent|per cent|pct|permille|squared|cubed|factorial|recurring|repeating)\b"
    rf"|(?:\s*-\s*|\s+)(?i:half|halves|fold|scores?|gross|grand|myriad|mn|bn|mil|etc|{_COUNTED})\b|\s+[kKBMxyz](?![\w'’.^])"
    r"|\s*,?\s+(?:no|nope|maybe|perhaps|possibly|probably)\b|\s*[rR]\s?\d{1,9}\b"
    r"|\s+(?:plus|minus|over|divided by|multiplied by)\b"
    rf"|\s+(?:and|point)\s+(?i:up|above|over|more|below|under|counting|{_COUNTED})\b"
    r"|\s*[ap]\.?\s?m\b\.?"
    r"|\s+or\s+(?:more|less|fewer|greater|higher|above|below|under|over|so)\b"
    r"|\s+and\s+(?:an?|one|two|three|five|seven)[\s-]+(?:half|halves|thirds?|quarters?|fourths?|fifths?|eighths?)\b"
    r"|\s*\(\s*(?:not|wrong|incorrect|false|no)\b[^()]{0,40}\)?"
    r"|(?:\s+(?:would|could|can|must))?(?:\s+(?:is|was|are|were|be))?\s+(?:not|wrong|incorrect|false|never|impossible|too)\b"
    r"|\s+(?:isn|wasn|aren|can)['’]t\b|\s+cannot\b|\s*(?:是错|不对|不是|错误)"
    r"|[ \t]*[-+*/×÷·⋅^][ \t]*(?:\\[A-Za-z]+|[π√]\S{0,20}|[b-hj-zB-HJ-Z](?![\w'’.]))"
    r"|\s+[<>≤≥≠]=?\s*[A-Za-z](?![A-Za-z])"
)


def last_value(text: str) -> str | None:
    """The last value in a text as it is written, with all that makes it another one; None without a digit.

    What is found may be no number at all (`3:4`, `not 5`, `x^2`): a reader of numbers then refuses it, where a part of
    it would have been taken for the answer.
    """
    found = value_span(text)
    return text[found[0] : found[1]] if found else None


def value_span(text: str) -> tuple[int, int] | None:
    """Where the last value begins and ends."""
    offset = max(0, len(text) - SEARCHED)
    plain = _MARKS.sub(lambda m: " " * len(m.group()), text[offset:].translate(_HYPHENS).translate(FULL_WIDTH))
    end = len(plain)
    for _ in range(MAX_SKIPPED):
        while end > 0 and not _DIGIT.match(plain, end - 1):
            end -= 1
        if end == 0:
            return None
        place = end - 1
        start, stop = _word_at(plain, place)
        if stop - start >= NEAR:
            return None
        end = _passed_over(plain, start, stop, place)
        if end == stop:
            span = _whole(plain, start, stop, place)
            return span and (span[0] + offset, span[1] + offset)
    return None


def _word_at(text: str, place: int) -> tuple[int, int]:
    """The characters without space around a digit, at most `NEAR` in each direction."""
    start, stop = _left_edge(text, place, place - NEAR), place + 1
    while stop < len(text) and stop - place < NEAR and not _edge(text, stop):
        stop += 1
    # "7=7": the side that the digit is on, unless the sign is part of a relation.
    left, right = text.rfind("=", start, place), text.find("=", place, stop)
    if left >= 0 and text[left - 1 : left] not in tuple("<>!≤≥"):
        start = left + 1
    start = max(start, text.rfind("≈", start, place) + 1)
    return start, right if right >= 0 else stop


def _edge(text: str, place: int) -> bool:
    char = text[place]
    # A long dash is a sign only before a digit and after a space.
    dash = char == "—" and not (place + 1 < len(text) and text[place + 1].isdigit() and text[:place][-1:].isspace())
    return dash or _EDGE.match(char) is not None


def _passed_over(text: str, start: int, stop: int, place: int) -> int:
    """Where to look on: before a name with digits or the power of a unit; else the end of the word itself."""
    word = text[start:stop].rstrip(".,;:?!)")
    if _NAME.fullmatch(word.lstrip("(")):
        return start
    power = _UNIT_POWER.search(text, max(0, start - 30), start + len(word))
    if power and power.start() <= place and all(unit_of(part.split()) for part in power.group(1).split("/")):
        before = text[max(0, power.start() - 20) : power.start()].rstrip()
        if before.endswith("$") or _OPERAND_ENDS.search(before):
            return power.start()
    return stop


def _whole(text: str, start: int, stop: int, place: int) -> tuple[int, int] | None:
    start, stop = _bracketed(text, *_trimmed(text, start, stop), place)
    for _ in range(MAX_OPERANDS):
        before = _joined(text, start, stop)
        if before == start:
            break
        start = before
    else:
        return None
    if start >= stop:
        return None
    for _ in range(3):
        after = _AFTER.match(text, stop, stop + NEAR)
        stop = after.end() if after else stop
    return _with_words_before(text, start), stop


def _with_words_before(text: str, start: int) -> int:
    line = max(text.rfind("\n", 0, start) + 1, start - NEAR)
    near = text[line:start].rstrip()
    if found := _BEFORE.search(near):
        return line + found.start()
    if found := _RANGE_WORD.search(near) or _SHARE.search(near):
        return _operand(text, line, line + found.start() + 1)
    return start


def with_changing_words(text: str, span: tuple[int, int], value: str) -> str:
    """A value with the words around its span that make it another one (`not`, `million`); else as it is."""
    start = _with_words_before(text, span[0])
    after = _AFTER.match(text, span[1], span[1] + NEAR)
    if start == span[0] and after is None:
        return value
    return f"{text[start : span[0]]}{value}{after.group() if after else ''}"


def _trimmed(text: str, start: int, stop: int) -> tuple[int, int]:
    """Without punctuation around it and without a word that a hyphen joins to it (`24-hour`)."""
    if text[start:stop].strip(".,:").count("|") != 2:  # 3 | 4 is a row of a table, |-3| a number
        while start < stop and text[start] == "|":
            start += 1
        stop -= text[start:stop].endswith("|")
    quoted = text[start : start + 1] == "'"
    while start < stop and text[start] in ",:?'#=":
        start += 1
    word = _JOINED_WORD.match(text, start, stop)
    if word and (word.group(2) is None or unit_of(word.group(2).split())):
        stop = word.end(1)
    ends = ",:?-—'" if quoted else ",:?-—"
    while stop > start and (text[stop - 1] in ends or (text[stop - 1] == "." and text[stop - 2] != ".")):
        stop -= 1
    return start, stop


def _bracketed(text: str, start: int, stop: int, place: int) -> tuple[int, int]:
    """With the whole brackets around `place` if they contain mathematics; without other brackets."""
    for _ in range(8):
        depth, low = _balance(text[start:stop])
        if low < 0:
            closing = next(i for i in range(start, stop) if _balance(text[start : i + 1])[1] < 0)
            opening = _opening(text, start) if closing > place else None
            if opening is not None and not _WORD.search(text, opening, stop):
                start = _left_edge(text, opening, stop - NEAR)
            else:  # an aside, or the mark of a list
                start, stop = (closing + 1, stop) if closing < place else (start, closing)
        elif depth > 0:
            opening = _opening(text, stop) or start
            line = text.find("\n", stop, stop + NEAR)
            most = stop + NEAR if line < 0 else line
            closing = text.find(_CLOSERS[text[opening]], stop, most) if opening < place else -1
            if closing >= 0 and not _WORD.search(text, stop, closing):
                stop = closing + 1
            else:
                start, stop = (opening + 1, stop) if opening < place else (start, opening)
        else:
            break
    start, stop = _trimmed(text, start, stop)
    if text[start] in "([" and text[stop - 1] in ")]" and _ONE_NUMBER.fullmatch(text, start + 1, stop - 1):
        return start + 1, stop - 1
    return start, stop


def _left_edge(text: str, start: int, least: int) -> int:
    while start > max(least, 0) and not _edge(text, start - 1):
        start -= 1
    return start


def _balance(word: str) -> tuple[int, int]:
    """(brackets open at the end, least number open at any place)."""
    depth = low = 0
    for char in word:
        depth += (char in "([{") - (char in ")]}")
        low = min(low, depth)
    return depth, low


def _opening(text: str, stop: int) -> int | None:
    """The last bracket before `stop`, on its line, that opens and does not close before it."""
    wanted = 1
    for place in range(stop - 1, max(0, stop - NEAR) - 1, -1):
        wanted += (text[place] in ")]}") - (text[place] in "([{")
        if wanted == 0:
            return place
        if text[place] == "\n":
            return None
    return None


def _joined(text: str, start: int, stop: int) -> int:
    """Start of the value, including the text before it on its line that belongs to it."""
    line = max(text.rfind("\n", 0, start) + 1, start - NEAR)
    head = text[line:start]
    near = head.rstrip()
    spaced = len(near) < len(head)
    value = text[start:stop]
    if value[:1] in tuple(_OPERATORS) and spaced and _OPERAND_ENDS.search(near):
        return _operand(text, line, line + len(near))  # 3 +4
    if near.endswith(tuple(_OPERATORS)) and not near.endswith(("->", "-->")):
        return _after_operator(text, line, start, near)
    if near.endswith((" :", " ∶")) and spaced and near[:-2].rstrip()[-1:].isdigit():
        return _operand(text, line, line + len(near[:-2].rstrip()))
    if near.endswith(tuple(_RELATIONS)) and not near.endswith(("->", "=>", ">>")) and near not in (">", "~"):
        return _left_edge(text, line + len(near) - 1, line)
    if near.endswith("=") and near[-2:-1] in tuple("<>!"):
        return _left_edge(text, line + len(near) - 2, line)
    if found := re.search(r"(?<=[\d)}%])(?:\s+[xX]|\s*\\(?:times|cdot|div|pm))$", near):
        return _operand(text, line, line + found.start())
    if found := _PLUS_WORD.search(near):
        bare = near[: found.start()].rstrip()
        return _operand(text, line, line + len(bare)) if bare[-1:].isdigit() else start
    if spaced and near[-1:].isdigit() and _goes_on(value, near, head):
        return _operand(text, line, line + len(near))
    compound = re.search(r"\d\S{0,20}\s+([^\W\d_]{1,15})\s*,?(?:\s+and)?$", near)
    if compound and is_unit(compound.group(1)) and re.match(r"\s*[^\W\d_]", text[stop:]):
        return _operand(text, line, line + compound.start() + 1)
    if re.search(r"\$\d\S{0,20}\s+and$", near) and re.match(r"\s*cents?\b", text[stop : stop + 8]):
        return _operand(text, line, line + len(near[:-3].rstrip()))
    return start


def _goes_on(value: str, near: str, head: str) -> bool:
    """Whether a number and what follows it after a space are one: `3 1/2`, `12 345`, `3 √2`, `3 \\sqrt{2}`."""
    if re.match(rf"\d{{1,6}}/\d|[{_FRACTIONS}]|√|\\[dt]?frac|\\?sqrt", value):
        return re.search(r"(?<![.,/\d])\d{1,9}$", near) is not None or value[0] in "√\\s"
    thousands = re.match(r"\d{3}(?!\d)", value) and re.search(r"(?<![\d.,])\d{1,3}$", near)
    return bool(thousands) and head[len(near) :] == " "


def _after_operator(text: str, line: int, start: int, near: str) -> int:
    """The operator before: it takes the operand before it, or is a sign, or marks an item of a list."""
    place = line + len(near) - 1
    bare = near[:-1].rstrip()
    if near.endswith("**"):
        bare, place = near[:-2].rstrip(), place - 1
    if _OPERAND_ENDS.search(bare) and not (near.endswith(" -") and re.search(r"(?<![A-Za-z])[aAI]$", bare)):
        return _operand(text, line, line + len(bare))
    if not bare and place + 1 < start:
        return start  # "- 7 cows" is an item
    if bare.endswith("$") or near[-1] in "+-":
        return place
    return start


def _operand(text: str, line: int, stop: int) -> int:
    """Where the operand that ends at `stop` begins."""
    start = _left_edge(text, stop - 1, line)
    start = max(start, text.rfind("=", start, stop) + 1)
    if _balance(text[start:stop])[1] < 0:
        opening = _opening(text, stop - 1)
        start = start if opening is None else _left_edge(text, opening, line)
    while start < stop - 1 and text[start] in ",:?'#":
        start += 1
    return start
