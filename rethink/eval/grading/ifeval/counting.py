"""Words, sentences and language of a text, as IFEval counts them. Nothing is downloaded: lists are in this file."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

from rethink.errors import UsageError, how_to_install

WORD = re.compile(r"\w+")

# What ends in a full stop without ending a sentence: names of persons, firms, months, days and states. The published
# checker uses NLTK's trained English model, which is a download; its algorithm with these lists gives the same splits
# except around rarer abbreviations and formulas. That model ends a sentence after `i.e.`, `e.g.` and `etc.`, so they
# are not listed: verdicts are comparable only if they make the same errors.
_ABBREVIATIONS = frozenset(
    """
    mr mrs ms messrs dr prof sen rep reps gen col maj lt adm st sr jr
    inc ltd co cos corp bros vs yr ft ave ok
    a.m p.m a.d ph.d m.b.a u.s u.k u.n u.s.a d.c n.y l.a n.j n.c s.c n.h r.i
    jan feb aug sep sept oct nov dec tues wed fri
    ala ariz calif colo conn fla ga ill kan ky mich minn nev okla ore pa tenn va vt wash wis
    """.split()
)
# After an abbreviation, a capitalised one of these begins a sentence.
_STARTERS = frozenset(
    """
    the this these he it i they there in if but so since when while although though however both some many most
    among despite even indeed instead meanwhile moreover nevertheless nor thus under yet similarly
    """.split()
)


def count_words(text: str) -> int:
    """Runs of letters, digits and underscores."""
    return sum(1 for _ in WORD.finditer(text))


def count_sentences(text: str) -> int:
    """Sentences by the Punkt algorithm (Kiss and Strunk, 2006) with a fixed list of English abbreviations."""
    return len(_sentence_splitter().tokenize(text))


def capital_words(text: str) -> int:
    """Tokens (Penn Treebank rules, sentence by sentence) that are written in capital letters throughout."""
    words = _word_tokenizer()
    return sum(word.isupper() for sentence in _sentence_splitter().tokenize(text) for word in words.tokenize(sentence))


def detect_language(text: str) -> str | None:
    """ISO 639-1 code of the text's language (`zh-cn`, `zh-tw` for Chinese); None where it has no letters to go by."""
    langdetect = _require("langdetect")
    langdetect.DetectorFactory.seed = 0  # its random start would make a verdict depend on what was judged before
    try:
        found: str = langdetect.detect(text)
    except langdetect.LangDetectException:
        return None
    return found


@cache
def _sentence_splitter() -> Any:
    _require("nltk")
    from nltk.tokenize.punkt import PunktParameters, PunktSentenceTokenizer

    parameters = PunktParameters()
    parameters.abbrev_types = set(_ABBREVIATIONS)
    parameters.sent_starters = set(_STARTERS)
    return PunktSentenceTokenizer(parameters)


@cache
def _word_tokenizer() -> Any:
    _require("nltk")
    from nltk.tokenize.destructive import NLTKWordTokenizer

    return NLTKWordTokenizer()


def _require(package: str) -> Any:
    import importlib

    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise UsageError(
            f"ifeval needs the package `{package}` to judge answers; install the extra: {how_to_install('eval')}"
        ) from error


def check_packages() -> None:
    """Raise `UsageError` now, before anything is generated, where a package is missing."""
    _require("langdetect")
    _require("nltk")
