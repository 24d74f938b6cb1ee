r"""The 25 kinds of instruction of IFEval, each a function of the response and its arguments.

They follow the published checker (google-research, `instruction_following_eval`), including where it is lenient: a
verdict is only comparable with published ones if it errs in the same places. Two things differ on purpose. A letter
to be counted that is no letter (`#`, `!`) is counted literally, where the published code draws a random letter
instead. And text in arguments is taken literally, never as a regular expression.

Responses are hostile: every check is linear in their length.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from rethink.eval.grading.ifeval.counting import capital_words, count_sentences, count_words, detect_language

Check = Callable[..., bool]
"""(response, **arguments) -> whether it follows the instruction."""

_CONSTRAINED = ("My answer is yes.", "My answer is no.", "My answer is maybe.")
_FENCES = ("```json", "```Json", "```JSON", "```")
_DIVIDER = re.compile(r"\s?\*\*\*\s?")
_HIGHLIGHT = re.compile(r"\*[^\n*]*\*")
_DOUBLE_HIGHLIGHT = re.compile(r"\*\*[^\n*]*\*\*")
_POSTSCRIPTS = {"P.P.S": re.compile(r"p\.\s?p\.\s?s"), "P.S.": re.compile(r"p\.\s?s\.")}
_PUNCTUATION = frozenset(".,?!'\"")
LESS_THAN, AT_LEAST = "less than", "at least"


def _compare(number: int, relation: str, threshold: int) -> bool:
    return number < threshold if relation == LESS_THAN else number >= threshold


# --- keywords ------------------------------------------------------------------------------------------------------


def _existence(response: str, *, keywords: list[str]) -> bool:
    return all(re.search(re.escape(word), response, re.IGNORECASE) for word in keywords)


def _frequency(response: str, *, keyword: str, frequency: int, relation: str) -> bool:
    found = re.findall(re.escape(keyword.strip()), response, re.IGNORECASE)
    return _compare(len(found), relation, frequency)


def _forbidden(response: str, *, forbidden_words: list[str]) -> bool:
    return not any(re.search(rf"\b{re.escape(word)}\b", response, re.IGNORECASE) for word in forbidden_words)


def _letter(response: str, *, letter: str, let_frequency: int, let_relation: str) -> bool:
    return _compare(response.lower().count(letter.strip().lower()), let_relation, let_frequency)


# --- length --------------------------------------------------------------------------------------------------------


def _sentences(response: str, *, num_sentences: int, relation: str) -> bool:
    return _compare(count_sentences(response), relation, num_sentences)


def _words(response: str, *, num_words: int, relation: str) -> bool:
    return _compare(count_words(response), relation, num_words)


def _paragraphs(response: str, *, num_paragraphs: int) -> bool:
    """Paragraphs are divided by `***`; an empty one is allowed at the two ends only."""
    parts = _DIVIDER.split(response)
    empty = [i for i, part in enumerate(parts) if not part.strip()]
    if any(0 < i < len(parts) - 1 for i in empty):
        return False
    return len(parts) - len(empty) == num_paragraphs


def _nth_first_word(response: str, *, num_paragraphs: int, nth_paragraph: int, first_word: str) -> bool:
    parts = response.split("\n\n")
    number = sum(1 for part in parts if part.strip())
    if nth_paragraph > number:
        return False
    # The paragraph is looked up among all parts, the empty ones too, as the published checker does.
    chosen = parts[nth_paragraph - 1].strip()
    if not chosen:
        return False
    word = chosen.split(maxsplit=1)[0].lstrip("'").lstrip('"')
    begin = next((i for i, char in enumerate(word) if char in _PUNCTUATION), len(word))
    return number == num_paragraphs and word[:begin].lower() == first_word.lower()


# --- detectable content and format ---------------------------------------------------------------------------------


def _placeholders(response: str, *, num_placeholders: int) -> bool:
    return _bracketed(response) >= num_placeholders


def _bracketed(response: str) -> int:
    """Pairs `[…]` within a line, from the left, without overlap."""
    number = 0
    for line in response.split("\n"):
        opened = line.find("[")
        while opened >= 0:
            closed = line.find("]", opened + 1)
            if closed < 0:
                break
            number += 1
            opened = line.find("[", closed + 1)
    return number


def _postscript(response: str, *, postscript_marker: str) -> bool:
    marker, lowered = postscript_marker.strip(), response.lower()
    pattern = _POSTSCRIPTS.get(marker)
    return marker.lower() in lowered if pattern is None else pattern.search(lowered) is not None


def _bullets(response: str, *, num_bullets: int) -> bool:
    lines = response.split("\n")
    number, i = 0, 0
    while i < len(lines):
        line = lines[i].lstrip()
        # A lone `*` is a bullet together with the line that follows it (the published pattern reads over the break).
        if line == "*" and i + 1 < len(lines):
            number, i = number + 1, i + 2
            continue
        number += line.startswith("-") or (line.startswith("*") and len(line) > 1 and line[1] != "*")
        i += 1
    return number == num_bullets


def _constrained(response: str) -> bool:
    return any(option in response for option in _CONSTRAINED)


def _highlights(response: str, *, num_highlights: int) -> bool:
    single = sum(1 for mark in _HIGHLIGHT.findall(response) if mark.strip("*").strip())
    double = sum(1 for mark in _DOUBLE_HIGHLIGHT.findall(response) if mark[2:-2].strip())
    return single + double >= num_highlights


def _sections(response: str, *, section_spliter: str, num_sections: int) -> bool:
    return len(re.findall(rf"{re.escape(section_spliter.strip())}\s?\d+", response)) >= num_sections


def _json(response: str) -> bool:
    text = response.strip()
    for fence in _FENCES:
        text = text.removeprefix(fence)
    try:
        json.loads(text.removesuffix("```").strip())
    except (ValueError, RecursionError):
        return False
    return True


def _title(response: str) -> bool:
    for line in response.split("\n"):
        first, last = line.find("<<"), line.rfind(">>")
        if 0 <= first <= last - 3 and line[first : last + 2].lstrip("<").rstrip(">").strip():
            return True
    return False


# --- combination, start and end, case, language ---------------------------------------------------------------------


def _two_responses(response: str) -> bool:
    parts = response.split("******")
    if any(not part.strip() for part in parts[1:-1]):
        return False
    whole = [part.strip() for part in parts if part.strip()]
    return len(whole) == 2 and whole[0] != whole[1]


def _repeat_prompt(response: str, *, prompt_to_repeat: str) -> bool:
    return response.strip().lower().startswith(prompt_to_repeat.strip().lower())


def _end(response: str, *, end_phrase: str) -> bool:
    return response.strip().strip('"').lower().endswith(end_phrase.strip().lower())


def _quotation(response: str) -> bool:
    text = response.strip()
    return len(text) > 1 and text[0] == '"' and text[-1] == '"'


def _no_comma(response: str) -> bool:
    return "," not in response


def _capital_words(response: str, *, capital_frequency: int, capital_relation: str) -> bool:
    return _compare(capital_words(response), capital_relation, capital_frequency)


def _english_capital(response: str) -> bool:
    return response.isupper() and detect_language(response) in ("en", None)


def _english_lowercase(response: str) -> bool:
    return response.islower() and detect_language(response) in ("en", None)


def _language(response: str, *, language: str) -> bool:
    found = detect_language(response)
    return found is None or found == language or found.partition("-")[0] == language


CHECKS: Mapping[str, tuple[Check, tuple[str, ...]]] = {
    "keywords:existence": (_existence, ("keywords",)),
    "keywords:frequency": (_frequency, ("keyword", "frequency", "relation")),
    "keywords:forbidden_words": (_forbidden, ("forbidden_words",)),
    "keywords:letter_frequency": (_letter, ("letter", "let_frequency", "let_relation")),
    "language:response_language": (_language, ("language",)),
    "length_constraints:number_sentences": (_sentences, ("num_sentences", "relation")),
    "length_constraints:number_paragraphs": (_paragraphs, ("num_paragraphs",)),
    "length_constraints:number_words": (_words, ("num_words", "relation")),
    "length_constraints:nth_paragraph_first_word": (
        _nth_first_word,
        ("num_paragraphs", "nth_paragraph", "first_word"),
    ),
    "detectable_content:number_placeholders": (_placeholders, ("num_placeholders",)),
    "detectable_content:postscript": (_postscript, ("postscript_marker",)),
    "detectable_format:number_bullet_lists": (_bullets, ("num_bullets",)),
    "detectable_format:constrained_response": (_constrained, ()),
    "detectable_format:number_highlighted_sections": (_highlights, ("num_highlights",)),
    "detectable_format:multiple_sections": (_sections, ("section_spliter", "num_sections")),
    "detectable_format:json_format": (_json, ()),
    "detectable_format:title": (_title, ()),
    "combination:two_responses": (_two_responses, ()),
    "combination:repeat_prompt": (_repeat_prompt, ("prompt_to_repeat",)),
    "startend:end_checker": (_end, ("end_phrase",)),
    "startend:quotation": (_quotation, ()),
    "change_case:capital_word_frequency": (_capital_words, ("capital_frequency", "capital_relation")),
    "change_case:english_capital": (_english_capital, ()),
    "change_case:english_lowercase": (_english_lowercase, ()),
    "punctuation:no_comma": (_no_comma, ()),
}
"""Every kind by its name in the data, with the arguments that it needs."""


def follows(kind: str, arguments: Mapping[str, Any], response: str) -> bool:
    """Whether a response follows one instruction; an empty response follows none.

    Raises:
        KeyError: no such kind, or an argument is missing (`check_instruction` says so beforehand).
    """
    check, names = CHECKS[kind]
    return bool(response.strip()) and check(response, **{name: arguments[name] for name in names})


def loose_variants(response: str) -> list[str]:
    """The response, without its first line, its last, both, and each of these without asterisks."""
    lines = response.split("\n")
    cut = [response, *("\n".join(part).strip() for part in (lines[1:], lines[:-1], lines[1:-1]))]
    return cut + [text.replace("*", "") for text in cut]


def judge(kinds: list[str], arguments: list[Mapping[str, Any]], response: str) -> tuple[list[bool], list[bool]]:
    """Each instruction's verdict, strict and loose (loose: any of `loose_variants` follows it)."""
    variants = loose_variants(response)
    strict, loose = [], []
    for kind, given in zip(kinds, arguments, strict=True):
        strict.append(follows(kind, given, response))
        loose.append(strict[-1] or any(follows(kind, given, text) for text in variants[1:]))
    return strict, loose


def check_instruction(kind: object, arguments: object) -> str | None:
    """What is wrong with one instruction of a data set; None where nothing is."""
    if kind not in CHECKS:
        return f"unknown instruction `{kind}`; known are {', '.join(CHECKS)}"
    names = CHECKS[str(kind)][1]
    missing = [name for name in names if not isinstance(arguments, Mapping) or arguments.get(name) is None]
    return f"the instruction `{kind}` needs {', '.join(missing)} in its kwargs" if missing else None
