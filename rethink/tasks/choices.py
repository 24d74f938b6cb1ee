"""The letter that answers a question with options: one reader for the reward `math` and for `rethink eval`.

A letter counts if it is alone, in a box, after words such as "the answer is", first with a mark
(`B. Because …`), or before "is correct". A statement that names several letters, or none of them, chooses none.
"""

from __future__ import annotations

import re

from rethink.tasks.answers import last_boxed
from rethink.tasks.last_value import FULL_WIDTH, SEARCHED

STATEMENT = 300
"""Characters after "the answer is" in which the letter is looked for."""
MAX_CUES = 32
"""How many of a text's last statements are read."""
LETTERS = "ABCDEFGHJ"
"""Letters where the number of options is not known. `I` is more often a word than a ninth option."""
OPTIONS = "ABCDEFGHIJ"

# What only dresses a letter; a box is looked for before.
_DRESS = re.compile(
    r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mathsf|boxed|fbox|bf|rm|displaystyle)(?![A-Za-z])|</?[a-z]{1,10}/?>"
    r"|\\[()\[\]]|[$*{}`\"“”‘「」《》]|(?<!\w)['’_]{1,2}+|['’_]{1,2}+(?!\w)"
)
_LINK = (
    r"(?:(?:is|are|should be|would be|must be|will be|would then be|to this question is|here is|→|=>|->|="
    r"|是|为|為|应该?[是为选]|选|選)\s{0,3}|[:：]\s{0,3}){1,3}"
)
_CUE = re.compile(
    r"(?:\b(?:answer|ans|option|choice)(?:s|\(s\))?\b|答案|选项)\s{0,3}"
    rf"(?:{_LINK}|[(\[]|(?=[A-Z](?![A-Za-z0-9_'’])))"
    r"|(?:选择?|選擇?)\s{0,3}[:：]?\s{0,3}"
    r"|\bI(?:['’](?:d|ll|m)| would| will| am)?\s+(?:choose|chose|pick|picked|select|selected|go with|going with)\s"
    r"|\b(?:finalize|it['’]s|it is|it must be)\s{1,3}(?=[(\[]?[A-J](?![A-Za-z0-9_'’]))",
    re.IGNORECASE,
)
_AFFIRMED = re.compile(
    r"(?<![A-Za-z0-9_'’])\(?([A-Z])\)?\s+is\s+(?:therefore\s+|thus\s+|also\s+|clearly\s+)?(?:the\s+)?(?:(?:only|most)\s+)?"
    r"(?:correct|right|valid|true|best|answer)\b|(?<![A-Za-z0-9_'’])([A-Z])\s{0,2}(?:是正确|正确|是对的)"
)
_ALONE = re.compile(r"[\s(\[<.,:#-]*([A-Za-z])[\s)\]>.,:;!。，；：）]*")
_FIRST = re.compile(
    r"[\s(\[<#-]*(?:(?:option|choice|letter|the|选项)\s+){0,2}[(\[<]?([A-Z])"
    r"(?:[)\]>]|[.:](?=\s|$)|[,，](?=\s)|[。，；])[).:]?",
    re.IGNORECASE,
)
# A letter alone: no part of a word or a formula, no initial.
_LETTER = re.compile(r"(?<![A-Za-z0-9_'’.^\\+=-])([A-Z])(?![A-Za-z0-9_'’^]|\s?[=+<>]|\s[A-Z][a-z]|-[A-Za-z])")
_ARTICLE = re.compile(
    r"A\s+(?!(?:is|was|because|since|as|and|or|seems|looks|would|must|can|cannot|to|through|but|with|for|if|in|by"
    r"|rather|not|instead|due|here)\b)[a-z]"
)
_PRONOUN = re.compile(r"I(?:\s+[a-z]|['’])")
# A further option with its content: `; B. 4`; where all have brackets, a space before it is enough: `(A) 3 (B) 4`.
_CONTENT = r"\s{0,3}(?=[^\s,;/&|)\]])(?!(?:is|was|are|were|seems|looks|would|can|cannot|has|does)\b)"
_LISTED = re.compile(
    rf"(?:[,;/&|。；，、]|\b(?:and|or)\b|[.)\]]\s)\s{{0,3}}[(\[]?([A-Z])[)\].:]{{1,2}}{_CONTENT}", re.ASCII
)
_BRACKETED = {"(": re.compile(rf"\s\(([A-Z])\){_CONTENT}"), "": re.compile(rf"\s([A-Z])\){_CONTENT}")}
# The second of a list with one option a line.
_NEXT_LINE = re.compile(r"\n\s{0,8}[-*(\[]?\s?B[)\].:]{1,2}\s{0,3}(?=\S)")
# A whole answer that is one option, and what stands in it as an option too.
_ANSWER = re.compile(r"\(\s*([A-Z])\s*\)(?:\s*[^\s=+*/^(-].*)?|([A-Z])\s*[).:](?:\s+.*)?", re.DOTALL)
_AND_OR = r"(?i:\band\b|\bor\b)"
_OTHER = re.compile(rf"\(\s*([A-Z])\s*\)|(?:^|[,;/&]|{_AND_OR}|[.):]\s)\s*([A-Z])(?=\s*(?:[).:,;/&]|{_AND_OR}|$))")
_ONE = r"[(\[]?[A-Z](?![A-Za-z0-9_])[)\]]?"
_REJECTED = re.compile(
    r"(?:(?:\bnot|n['’]t|rather than|instead of|eliminat\w{1,4}|rul(?:e|es|ed|ing) out|except|excluding|unlike)\s+"
    rf"|(?:不是|不选|排除)\s*)(?:(?:be|option|choice|the|letter|answer)\s+){{0,3}}{_ONE}"
    rf"(?:\s*(?:,|,?\s*(?:or|and|nor)|/)\s*{_ONE}){{0,9}}"
    rf"|(?<![A-Za-z0-9_'’]){_ONE}\s*(?:(?:is|was|are|seems|looks)\s+(?:also\s+|clearly\s+|definitely\s+)?"
    r"(?:not\b|wrong|incorrect|false|invalid|out\b)|(?:isn|wasn|can|doesn)['’]t\b|cannot\b|错|不对|不正确|是错)"
)
_NONE = re.compile(
    r"\b(?:none|neither|nothing|no (?:option|choice|answer|letter)|all of|any of|either|both|every|unclear|unknown)\b"
    r"|都不|都对|以上",
    re.IGNORECASE,
)
_REASON = re.compile(
    r"\b(?:because|since|given|as (?:the|it|this|a)|note|where|which|for the)\b|[;；—]|因为|由于", re.IGNORECASE
)
_CONTRAST = re.compile(r"\b(?:while|whereas|although|though|but)\b", re.IGNORECASE)
_SENTENCE_END = re.compile(r"(?<![A-Z(])[.!?](?=\s|$)|(?<=[A-Z])[.](?=\s*$|\s+(?:[A-Z][a-z]|[a-z]))|[。！？\n]")


def choice_letter(text: str, options: str = LETTERS) -> str | None:
    """The letter that a text chooses; None where it chooses none, several, or one that is no option.

    Args:
        text: what is said after the thought.
        options: the letters of the options.
    """
    return read_choice(text, options) or None


def read_choice(text: str, options: str = LETTERS) -> str | None:
    """As `choice_letter`, but an empty text where several letters are named, or none expressly."""
    text = text[-SEARCHED:].translate(FULL_WIDTH)
    box = last_boxed(text)
    if box is not None and (chosen := _statement(_bare(box[:STATEMENT]), options)) is not None:
        after = text[text.rfind(box) + len(box) :]
        return _by_cue(_bare(after), options) or chosen
    text = _bare(text)
    chosen = _alone(text, options)
    if chosen is None:
        chosen = _by_cue(text, options)
    if chosen is None:
        head = text.lstrip()[:STATEMENT]
        first = _FIRST.match(head)
        if first and first.group(1) == "A" and _NEXT_LINE.search(head, first.end()):
            chosen = ""  # a list of options, one a line
        elif first and first.group(1).isupper():
            chosen = _statement(head.split("\n", 1)[0], options)
        elif len(text.strip()) <= STATEMENT and re.fullmatch(r"\W*[A-Z](?:(?:\W|and|or)+[A-Z]\W*)+", text.strip()):
            chosen = ""
    return chosen


def option_of(answer: str) -> str | None:
    """The option that a whole answer is: `C`, `(C)`, `C.` and `(C) Cecile`; None where it lists several, or is none."""
    plain = answer.strip(" *")
    if len(plain) == 1 and plain.isalpha() and plain.isascii():
        return plain.upper()
    found = _ANSWER.fullmatch(plain)
    if found is None:
        return None
    letter = str(found.group(1) or found.group(2))
    others = {one for pair in _OTHER.findall(plain) for one in pair if one}
    return letter if others <= {letter} else None


def _bare(text: str) -> str:
    return _DRESS.sub("", text).strip()


def _alone(text: str, options: str) -> str | None:
    found = _ALONE.fullmatch(text) if len(text) < 40 else None
    return found.group(1).upper() if found and found.group(1).upper() in options else None


def _by_cue(text: str, options: str) -> str | None:
    """What the last statement that chooses, or that names several letters, says."""
    places = [(found.end(), "") for found in _CUE.finditer(text)]
    places += [(found.start(), found.group(1) or found.group(2)) for found in _AFFIRMED.finditer(text)]
    for place, letter in sorted(places, reverse=True)[:MAX_CUES]:
        before = text[max(0, place - 12) : place].lower() if letter else ""
        if letter in options and letter and not before.rstrip().endswith(("not", "if", "nor", "whether")):
            return letter
        if letter:
            continue
        lines = text[place : place + STATEMENT].lstrip(" \t\n:：→>-#").split("\n", 1)
        chosen = _statement(lines[0], options)
        if chosen is not None:
            return chosen
    return None


def _statement(text: str, options: str) -> str | None:
    """The one letter that a sentence names; empty: several, or none expressly; None: it mentions no letter."""
    alone = _alone(text, options)
    if alone is not None:
        return alone
    first = _FIRST.match(text)
    lower = first is not None and first.group(1).islower()
    if first and lower and first.group().lstrip()[:1] in ("(", "[") and first.group(1).upper() in options:
        return first.group(1).upper()
    if first and not lower and first.group(1) in options and not _goes_on(text, first.end()):
        chosen = first.group(1)
        return chosen if _listed(text, first.group().strip(), options) <= {chosen} else ""
    end = _SENTENCE_END.search(text)
    text = text[: end.start()] if end else text
    if _NONE.search(text):
        return ""
    reason = _REASON.search(text)
    # "C because A is wrong": what the reason names is not chosen.
    if reason and _letters(text[: reason.start()]):
        text = text[: reason.start()]
    text, *rest = _CONTRAST.split(_REJECTED.sub(" ", text))
    letters = next(filter(None, map(_letters, (text, *rest))), set())
    if len(letters) > 1:
        return ""
    # A letter that is no option is a choice too: of nothing.
    return next((letter if letter in options else "" for letter in letters), None)


def _listed(text: str, first: str, options: str) -> set[str]:
    """The options that a text lists with their content behind its `first` one: `A. 3; B. 4` has B."""
    text = _REJECTED.sub(" ", text[text.index(first) + len(first) :])
    reason = next((found.start() for found in _REASON.finditer(text) if found.group()[0].isalpha()), len(text))
    found = _LISTED.findall(text, 0, reason)
    if first.endswith(")"):
        found += _BRACKETED["(" if first.startswith("(") else ""].findall(text, 0, reason)
    return set(found) & set(options)


def _goes_on(text: str, place: int) -> bool:
    """Whether other letters follow the first one: `(A), (B)`, `A) and C)`, `A, B`."""
    rest = re.match(
        r"\s*(?:[,/&，、|]|\b(?:and|or)\b|和|或|与|\s)*\s*[(\[]?[A-Z](?![A-Za-z0-9_'’])(?!\s+(?!and|or)[a-z])",
        text[place:],
    )
    return rest is not None


def _letters(text: str) -> set[str]:
    found = set()
    for match in _LETTER.finditer(text):
        letter = match.group(1)
        if letter == "A" and _ARTICLE.match(text, match.start()):
            continue
        if letter == "I" and (_PRONOUN.match(text, match.start()) or len(text.strip()) == 1):
            continue
        if letter <= "J":
            found.add(letter)
    return found
