"""Tokenizers that GGUF files carry, rebuilt for the `tokenizers` library.

`tokenizer.ggml.model` says the kind: `gpt2` is byte-level BPE with given merges, `llama` is SentencePiece BPE whose
merges follow from the scores. For the first, `tokenizer.ggml.pre` names the pre-tokenizer, that is, how text is cut
into pieces before merging; it decides how digits and Chinese are tokenised, so an unknown one is an error. No
Unicode normalisation is applied, as in llama.cpp (a GGUF does not record any).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers import Tokenizer as Backend

from rethink.errors import ModelError

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
"""Token types of GGUF."""
_LONGEST_TOKEN, _MOST_LETTERS = 4096, 1 << 25
"""Far above what vocabularies hold: some hundred letters, and three million in all."""

_CONTRACTIONS = r"'s|'t|'re|'ve|'m|'ll|'d"
_GPT2 = rf"{_CONTRACTIONS}| ?\p{{L}}+| ?\p{{N}}+| ?[^\s\p{{L}}\p{{N}}]+|\s+(?!\S)|\s+"


def _gpt4_style(digits: str) -> str:
    """The pattern of cl100k's descendants, which differ in how many digits make a piece."""
    return (
        rf"(?i:{_CONTRACTIONS})|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*"
        r"|\s*[\r\n]+|\s+(?!\S)|\s+"
    )


_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_TEKKEN = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*|\p{{N}}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@dataclass(frozen=True, slots=True)
class PreTokenizer:
    """How text is cut before merging: each pattern in turn splits what the ones before left."""

    patterns: tuple[str, ...]
    whole_words_first: bool = False
    """Whether a piece that is itself a token is taken whole, without merging."""


_DIGITS_THEN_GPT2 = PreTokenizer((r"\p{N}", _GPT2))
_QWEN2 = PreTokenizer((_gpt4_style(r"\p{N}"),))
_LLAMA3 = PreTokenizer((_gpt4_style(r"\p{N}{1,3}"),), whole_words_first=True)
PRE_TOKENIZERS: Mapping[str, PreTokenizer] = {
    "smollm": _DIGITS_THEN_GPT2,
    "starcoder": _DIGITS_THEN_GPT2,
    "refact": _DIGITS_THEN_GPT2,
    "gpt-2": PreTokenizer((_GPT2,)),
    "olmo": PreTokenizer((_GPT2,)),
    "default": PreTokenizer((r"[\p{P}\$\+<=>\^~\|]+", _GPT2, r"\p{N}+", r"[0-9][0-9][0-9]")),
    "qwen2": _QWEN2,
    "deepseek-r1-qwen": _QWEN2,
    "llama-bpe": _LLAMA3,
    "llama3": _LLAMA3,
    "llama-v3": _LLAMA3,
    "tekken": PreTokenizer((_TEKKEN,), whole_words_first=True),
}
"""By the names of `tokenizer.ggml.pre`."""


def build_backend(fields: Mapping[str, Any], source: str) -> tuple[Backend, dict[str, Any], dict[str, Any]]:
    """The tokenizer, its `tokenizer_config.json` and its `generation_config.json`.

    Args:
        fields: the GGUF key/value pairs whose keys begin with `tokenizer.`.
        source: the file, for messages.

    Raises:
        ModelError: the tokenizer's kind or pre-tokenizer is unknown, or its fields contradict each other.
    """
    try:
        return _build(fields, source)
    except ModelError:
        raise
    except Exception as error:  # fields may be of any kind, and the library raises a bare Exception
        raise ModelError(
            f"the tokenizer in {source} contradicts itself ({str(error)[:200]}); download the file again"
        ) from error


def _build(fields: Mapping[str, Any], source: str) -> tuple[Backend, dict[str, Any], dict[str, Any]]:
    kind = str(fields.get("tokenizer.ggml.model"))[:60]
    builders = {"gpt2": _byte_level, "llama": _sentencepiece}
    if kind not in builders:
        raise ModelError(
            f"{source} carries a tokenizer of kind {kind!r}; known are gpt2 (byte-level BPE) and llama "
            "(SentencePiece). Use the model's Hugging Face folder instead"
        )
    tokens, types = _tokens_and_types(fields, source)
    backend = builders[kind](fields, tokens, types, source)
    _add_special_tokens(backend, tokens, types)
    config, generation = _configurations(fields, tokens, source)
    if _adds_bos(fields, kind) and "bos_token" in config:
        _prepend(backend, config["bos_token"], generation["bos_token_id"])
    return backend, config, generation


def _tokens_and_types(fields: Mapping[str, Any], source: str) -> tuple[list[str], list[int]]:
    tokens = fields.get("tokenizer.ggml.tokens")
    if not isinstance(tokens, list) or not tokens:
        raise ModelError(f"{source} carries no tokens (tokenizer.ggml.tokens); use a file with its tokenizer")
    types = fields.get("tokenizer.ggml.token_type", [NORMAL] * len(tokens))
    if len(types) != len(tokens):
        raise ModelError(
            f"{source} has {len(tokens)} tokens and {len(types)} token types; the file is damaged: download it again"
        )
    longest, total = max(map(len, tokens)), sum(map(len, tokens))
    if longest > _LONGEST_TOKEN or total > _MOST_LETTERS:  # what follows tries every cut of every token
        raise ModelError(
            f"{source} has tokens of up to {longest:,} letters and {total:,} in all, where {_LONGEST_TOKEN:,} and "
            f"{_MOST_LETTERS:,} are allowed; the file is damaged: download it again"
        )
    return tokens, types


def _byte_level(fields: Mapping[str, Any], tokens: Sequence[str], types: Sequence[int], source: str) -> Backend:
    pre = _pre_tokenizer(fields, source)
    merges = fields.get("tokenizer.ggml.merges")
    if not isinstance(merges, list):
        raise ModelError(f"{source} carries no merges (tokenizer.ggml.merges); the file is damaged: download it again")
    pairs = [_pair(line, source) for line in merges]
    vocabulary = {token: i for i, token in enumerate(tokens) if types[i] != UNUSED}
    backend = Backend(models.BPE(vocab=vocabulary, merges=pairs, ignore_merges=pre.whole_words_first))
    backend.pre_tokenizer = cutter(pre)
    backend.decoder = decoders.ByteLevel()
    return backend


def cutter(pre: PreTokenizer) -> pre_tokenizers.PreTokenizer:
    """Cuts text as `pre` says, and spells each piece in the letters that represent bytes."""
    cuts = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in pre.patterns]
    return pre_tokenizers.Sequence([*cuts, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def _pre_tokenizer(fields: Mapping[str, Any], source: str) -> PreTokenizer:
    name = fields.get("tokenizer.ggml.pre")
    if not isinstance(name, str) or name not in PRE_TOKENIZERS:
        said = "does not say its pre-tokenizer (tokenizer.ggml.pre)" if name is None else f"uses pre-tokenizer {name!r}"
        raise ModelError(
            f"{source} {said}, so its text would be cut wrongly; known are {', '.join(PRE_TOKENIZERS)}. "
            "Use the model's Hugging Face folder, or a newer GGUF of it"
        )
    return PRE_TOKENIZERS[name]


def _pair(line: str, source: str) -> tuple[str, str]:
    left, space, right = line.partition(" ")
    if not (left and space and right):
        raise ModelError(f"{source} has the merge {line!r}, which is not two tokens; download the file again")
    return left, right


def _sentencepiece(fields: Mapping[str, Any], tokens: Sequence[str], types: Sequence[int], source: str) -> Backend:
    scores = fields.get("tokenizer.ggml.scores")
    if not isinstance(scores, list) or len(scores) != len(tokens) or not all(map(math.isfinite, scores)):
        raise ModelError(
            f"{source} carries no score (a finite number) for each token; the file is damaged: download it again"
        )
    vocabulary = {token: i for i, token in enumerate(tokens) if types[i] != UNUSED}
    unknown = tokens[types.index(UNKNOWN)] if UNKNOWN in types else None
    backend = Backend(
        models.BPE(
            vocab=vocabulary,
            merges=_merges_from_scores(tokens, types, scores, vocabulary),
            unk_token=unknown,
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    space = [normalizers.Replace(" ", "▁")]
    prefixed = bool(fields.get("tokenizer.ggml.add_space_prefix", True))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), *space] if prefixed else space)
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    # Only a text that begins the model's input gets the prefix, and decoding undoes it there.
    backend.decoder = decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)] if prefixed else steps)
    return backend


def _merges_from_scores(
    tokens: Sequence[str], types: Sequence[int], scores: Sequence[float], vocabulary: Mapping[str, int]
) -> list[tuple[str, str]]:
    """Every way to join two tokens into a third, best score of the third first (SentencePiece's order of merging)."""
    ranked: list[tuple[float, int, int, str, str]] = []
    for i, token in enumerate(tokens):
        if types[i] not in (NORMAL, USER_DEFINED):
            continue
        for cut in range(1, len(token)):
            left, right = token[:cut], token[cut:]
            if left in vocabulary and right in vocabulary:
                ranked.append((-scores[i], vocabulary[left], vocabulary[right], left, right))
    ranked.sort(key=lambda merge: merge[:3])
    return [(left, right) for *_, left, right in ranked]


def _add_special_tokens(backend: Backend, tokens: Sequence[str], types: Sequence[int]) -> None:
    """Control and user-defined tokens are recognised in text before any cutting; only the former are special."""
    wanted = {CONTROL: True, USER_DEFINED: False, UNKNOWN: True}
    added = [
        AddedToken(token, special=wanted[kind], normalized=False)
        for token, kind in zip(tokens, types, strict=True)
        if kind in wanted and token
    ]
    backend.add_tokens(added)


def _configurations(
    fields: Mapping[str, Any], tokens: Sequence[str], source: str
) -> tuple[dict[str, Any], dict[str, Any]]:
    config: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    names = {"bos": "bos", "eos": "eos", "padding": "pad", "unknown": "unk"}
    ids: dict[str, int] = {}
    for theirs, ours in names.items():
        token_id = fields.get(f"tokenizer.ggml.{theirs}_token_id")
        if token_id is None:
            continue
        if not 0 <= token_id < len(tokens):
            raise ModelError(
                f"{source} names token {token_id} as {theirs}, outside its {len(tokens)} tokens; download it again"
            )
        ids[ours] = token_id
        config[f"{ours}_token"] = tokens[token_id]
    if isinstance(fields.get("tokenizer.chat_template"), str):
        config["chat_template"] = fields["tokenizer.chat_template"]
    ends = [fields.get(f"tokenizer.ggml.{name}_token_id") for name in ("eos", "eot", "eom")]
    generation: dict[str, Any] = {f"{name}_token_id": ids[name] for name in ("bos", "pad") if name in ids}
    distinct = list(dict.fromkeys(end for end in ends if end is not None))
    if distinct:
        generation["eos_token_id"] = distinct if len(distinct) > 1 else distinct[0]
    return config, generation


def _adds_bos(fields: Mapping[str, Any], kind: str) -> bool:
    declared = fields.get("tokenizer.ggml.add_bos_token")
    if declared is not None:
        return bool(declared)
    return kind == "llama" or fields.get("tokenizer.ggml.pre") in ("llama-bpe", "llama3", "llama-v3", "tekken")


def _prepend(backend: Backend, token: str, token_id: int) -> None:
    backend.post_processor = processors.TemplateProcessing(
        single=f"{token} $A", pair=f"{token} $A $B", special_tokens=[(token, token_id)]
    )
