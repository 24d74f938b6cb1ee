"""A tokenizer as the fields of a GGUF file: the way back of `gguf_tokenizer.py`.

A GGUF file does not hold rules, only a kind (`tokenizer.ggml.model`) and, for byte-level BPE, the name of a
pre-tokenizer that the reader must know (`tokenizer.ggml.pre`). So the name is found by what the tokenizer does: it must
cut a text with letters of every script as the named one does. At the end the tokenizer is rebuilt from the fields and
must give the same ids; a tokenizer that cannot be expressed is an error, never another tokenizer.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Mapping
from functools import cache
from typing import Any, Final

from tokenizers import Tokenizer as Backend

from rethink.errors import ModelError
from rethink.model.tokenizer.gguf_tokenizer import (
    BYTE,
    CONTROL,
    NORMAL,
    PRE_TOKENIZERS,
    UNKNOWN,
    UNUSED,
    USER_DEFINED,
    PreTokenizer,
    cutter,
)
from rethink.model.tokenizer.tokenizer import END_OF_TURN_TOKENS, Tokenizer

TEKKEN_NOTE = (
    "llama.cpp's pattern for tekken knows no combining marks and no capitals beyond A to Z, so it may cut words with "
    "accented capitals otherwise than the model's own tokenizer"
)
TEXTS = (
    "Hello, world! It's 3.14 and I'll say you'VE DON'T 'RE I'm.",
    "0 12 345 6789 01234567890 3..3 x1y22z333 ٣٤ ½ Ⅳ 10,000.5",
    "  two   spaces\tand\t\ttabs \n\n\n  \r\n lines \u00a0 nbsp\u3000wide ",
    "def f(x):\n    return {'a': [1, 2]}  # note\n\n\n\tprint(x/y)//\n/* a */\n",
    "iPhone HTMLParser camelCase ÉCOLE Ångström straße ǅ ʰ ª",
    "我想在apple工作1314151天～。「日本語」カタカナ 한국어",
    "Привет мир, Ελληνικά, עברית, العربية, हिन्दी का, ភាសាខ្មែរ, ไทย",
    "🚀 (normal) 😶\u200d🌫️ 👩🏽\u200d🚀 🇫🇷 ✅ e\u0301 n\u0303 \u200b zero",
    '------======= ```````""""......!!!!?? $5 a+b<=c^d~e|f',
    "<think>\n1 + 2 = 3\n</think>\n\n<answer>3</answer> \\boxed{42}",
)
"""What the rebuilt tokenizer is tried on."""
_STEP = 7
"""Every so many code points one is tried."""
_NFC: Final = "NFC"
NFC_NOTE = "the tokenizer composes characters (NFC) before it cuts; a GGUF file cannot say so, and llama.cpp does not"
_OTHER_ENDS = ("<|eot_id|>", "<|im_end|>", "<|end_of_turn|>", "<end_of_turn>", "<|end|>")
"""Ends of a turn that are not the end of the sequence, most usual first."""


def gguf_fields(tokenizer: Tokenizer, vocab_size: int, source: str) -> tuple[dict[str, Any], tuple[str, ...]]:
    """A tokenizer as the `tokenizer.*` key/value pairs of a GGUF file, and notes on what they cannot hold.

    Args:
        tokenizer: what is written.
        vocab_size: rows of the model's embedding; ids without a token are filled up as unused.
        source: the model, for messages.

    Raises:
        ModelError: a GGUF file cannot express this tokenizer, so that text would be cut otherwise.
    """
    backend = tokenizer.backend
    state = json.loads(backend.to_str())
    tokens, types = _tokens_and_types(backend, state, vocab_size)
    if state["model"].get("type") != "BPE":
        raise _inexpressible(source, f"its kind is {state['model'].get('type')!r}, and only BPE can be written")
    if state["model"].get("byte_fallback"):
        fields = _sentencepiece(state, tokens, types, source)
    else:
        fields = _byte_level(backend, state, source)
    fields |= {"tokenizer.ggml.tokens": tokens, "tokenizer.ggml.token_type": types}
    fields |= _special_ids(tokenizer, tokenizer.config)
    fields |= {"tokenizer.ggml.add_bos_token": tokenizer.adds_bos, "tokenizer.ggml.add_eos_token": False}
    if tokenizer.chat_template is not None:
        fields["tokenizer.chat_template"] = tokenizer.chat_template
    _check_frame(tokenizer, backend, source)
    check_same(tokenizer, fields, source, normalised=_normalizer(state) == _NFC)
    notes = [NFC_NOTE] if _normalizer(state) == _NFC else []
    if fields["tokenizer.ggml.pre"] == "tekken":
        notes.append(TEKKEN_NOTE)
    return fields, tuple(notes)


def check_same(tokenizer: Tokenizer, fields: Mapping[str, Any], source: str, *, normalised: bool = False) -> None:
    """Rebuild the tokenizer from the fields and compare.

    Args:
        tokenizer: as it should be.
        fields: `tokenizer.*` key/value pairs.
        source: the model, for messages.
        normalised: try texts in NFC only.

    Raises:
        ModelError: it gives other ids for one of the texts, or ends turns otherwise.
    """
    again = Tokenizer.from_gguf_fields(fields, source)
    specials = [text for text in (tokenizer.id_to_token(i) for i in sorted(tokenizer.added_ids)) if text]
    marked = "".join(f"a{text}b {text} 1{text}\n" for text in specials)
    for text in (*TEXTS, marked):
        text = unicodedata.normalize(_NFC, text) if normalised else text
        expected, found = tokenizer.encode(text), again.encode(text)
        if expected != found:
            place = next((i for i, (a, b) in enumerate(zip(expected, found, strict=False)) if a != b), 0)
            around = tokenizer.decode(expected[max(place - 2, 0) : place + 3])
            raise _inexpressible(source, f"a reader of GGUF files would cut the text around {around!r} otherwise")
    same = (
        (again.end_of_turn_ids >= tokenizer.end_of_turn_ids, "the tokens that end a turn"),
        (again.bos_id == tokenizer.bos_id and again.adds_bos == tokenizer.adds_bos, "the token that begins a text"),
        (again.chat_template == tokenizer.chat_template, "the chat template"),
    )
    for holds, what in same:
        if not holds:
            raise _inexpressible(source, f"{what} would be lost")


@cache
def _every_script() -> str:
    """Characters of every script and class, alone, doubled, after a letter, a digit and a space."""
    points = [*range(0x21, 0x3000), *range(0x3000, 0x20000, _STEP)]
    kept = [c for c in map(chr, points) if unicodedata.category(c) not in ("Cs", "Cn", "Co")]
    return "".join(f"a{c} {c}{c}1{c}\n" for c in kept[::_STEP])


def _inexpressible(source: str, reason: str) -> ModelError:
    return ModelError(
        f"the tokenizer of {source} cannot be written into a GGUF file: {reason}. Use --to hf, which keeps every "
        "tokenizer, or llama.cpp's own converter if it knows the model"
    )


def _tokens_and_types(backend: Backend, state: Mapping[str, Any], vocab_size: int) -> tuple[list[str], list[int]]:
    by_id = {i: token for token, i in backend.get_vocab(with_added_tokens=True).items()}
    added = backend.get_added_tokens_decoder()
    unknown = state["model"].get("unk_token") if state["model"].get("byte_fallback") else None
    tokens, types = [], []
    for i in range(vocab_size):
        token = added[i].content if i in added else by_id.get(i)
        if token is None:
            tokens.append(f"[PAD{i}]")
            types.append(UNUSED)
            continue
        tokens.append(token)
        if token == unknown:
            types.append(UNKNOWN)
        elif i in added:
            types.append(CONTROL if added[i].special else USER_DEFINED)
        else:
            types.append(BYTE if unknown is not None and _is_byte(token) else NORMAL)
    return tokens, types


def _is_byte(token: str) -> bool:
    return len(token) == 6 and token.startswith("<0x") and token.endswith(">")


def _normalizer(state: Mapping[str, Any]) -> str | None:
    """The normalizer's type; None where there is none."""
    normalizer = state.get("normalizer")
    if not isinstance(normalizer, Mapping):
        return None
    steps = normalizer.get("normalizers")
    if normalizer.get("type") == "Sequence" and isinstance(steps, list) and len(steps) <= 1:
        return str(steps[0].get("type")) if steps else None
    return str(normalizer.get("type"))


# --- byte-level BPE --------------------------------------------------------------------------------------------------


def _byte_level(backend: Backend, state: Mapping[str, Any], source: str) -> dict[str, Any]:
    model = state["model"]
    if model.get("dropout") or model.get("continuing_subword_prefix") or model.get("end_of_word_suffix"):
        raise _inexpressible(source, "its BPE has drop-out, or marks within words, which the format does not have")
    normalizer = _normalizer(state)
    if normalizer not in (None, _NFC):
        raise _inexpressible(source, f"it normalises text ({normalizer}), which readers of GGUF files do not")
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": _pre_tokenizer_name(backend, bool(model.get("ignore_merges")), source),
        "tokenizer.ggml.add_space_prefix": False,
        "tokenizer.ggml.merges": [_merge_line(merge, source) for merge in model["merges"]],
    }


def _pre_tokenizer_name(backend: Backend, whole_words_first: bool, source: str) -> str:
    """The first name whose pre-tokenizer cuts as this tokenizer does."""
    if backend.pre_tokenizer is not None:
        texts = (*TEXTS, _every_script())
        cuts = [_pieces(backend.pre_tokenizer, text) for text in texts]
        for name, known in _distinct().items():
            if known.whole_words_first != whole_words_first:
                continue
            cut = cutter(known)
            if all(_pieces(cut, text) == expected for text, expected in zip(texts, cuts, strict=True)):
                return name
    raise _inexpressible(
        source, f"it cuts text in a way of its own before merging; known are {', '.join(PRE_TOKENIZERS)}"
    )


def _distinct() -> dict[str, PreTokenizer]:
    """One name for each known way of cutting, the first."""
    found: dict[PreTokenizer, str] = {}
    for name, known in PRE_TOKENIZERS.items():
        found.setdefault(known, name)
    return {name: known for known, name in found.items()}


def _pieces(pre_tokenizer: Any, text: str) -> list[str]:
    return [piece for piece, _ in pre_tokenizer.pre_tokenize_str(text)]


def _merge_line(merge: str | list[str], source: str) -> str:
    left, right = merge.split(" ", 1) if isinstance(merge, str) else merge
    if " " in left or " " in right:
        raise _inexpressible(source, f"the merge of {left!r} and {right!r} holds a space")
    return f"{left} {right}"


# --- SentencePiece BPE -----------------------------------------------------------------------------------------------


def _sentencepiece(state: Mapping[str, Any], tokens: list[str], types: list[int], source: str) -> dict[str, Any]:
    """Scores from the order of the merges: the sooner a token is made, the higher its score."""
    first: dict[str, int] = {}
    for rank, merge in enumerate(state["model"]["merges"]):
        left, right = merge.split(" ", 1) if isinstance(merge, str) else merge
        first.setdefault(left + right, rank)
    scores = []
    for token, kind in zip(tokens, types, strict=True):
        if kind == NORMAL and len(token) > 1 and token not in first:
            raise _inexpressible(source, f"no merge makes its token {token!r}, and the format cannot say so")
        scores.append(-float(first[token]) if kind == NORMAL and token in first else 0.0)
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.scores": scores,
        "tokenizer.ggml.add_space_prefix": _adds_space(state),
    }


def _adds_space(state: Mapping[str, Any]) -> bool:
    """Whether a text begins with a space that is not written (by a normalizer, or Metaspace)."""
    normalizer = state.get("normalizer") or {}
    steps = normalizer.get("normalizers", [normalizer])
    if any(step.get("type") == "Prepend" for step in steps):
        return True
    return bool((state.get("pre_tokenizer") or {}).get("prepend_scheme", "never") != "never")


# --- special tokens --------------------------------------------------------------------------------------------------


def _special_ids(tokenizer: Tokenizer, config: Mapping[str, Any]) -> dict[str, int]:
    names = {"bos": tokenizer.bos_id, "eos": tokenizer.eos_id, "padding": tokenizer.pad_id}
    unknown = config.get("unk_token")
    spelled = unknown.get("content") if isinstance(unknown, Mapping) else unknown
    names["unknown"] = tokenizer.token_to_id(spelled) if isinstance(spelled, str) else None
    rest = {tokenizer.id_to_token(i): i for i in sorted(tokenizer.end_of_turn_ids - {tokenizer.eos_id})}
    if names["eos"] is None and rest:
        names["eos"] = rest.pop(next(iter(rest)))
    names["eom"] = rest.pop("<|eom_id|>", None)
    # What is left is found by its name by our reader and by llama.cpp, except names that only this model has.
    unusual = [token for token in rest if token not in END_OF_TURN_TOKENS]
    names["eot"] = next((rest[token] for token in (*unusual, *_OTHER_ENDS) if token in rest), None)
    return {f"tokenizer.ggml.{name}_token_id": i for name, i in names.items() if i is not None}


def _check_frame(tokenizer: Tokenizer, backend: Backend, source: str) -> None:
    """What is put around a text: at most the token that begins it."""
    bare, framed = backend.encode("a", add_special_tokens=False).ids, backend.encode("a").ids
    expected = [tokenizer.bos_id, *bare] if tokenizer.adds_bos else bare
    if framed != expected:
        raise _inexpressible(source, f"it writes a text of tokens {bare} as {framed}, with more than a beginning")
