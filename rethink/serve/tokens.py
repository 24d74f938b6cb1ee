"""Tokens as OpenAI's log-probabilities show them: their text and their bytes."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from rethink.model.tokenizer.tokenizer import Tokenizer
from rethink.serve.scoring import TokenLogprob

_LOWEST = -9999.0
"""Stands for minus infinity, which JSON cannot hold."""


@lru_cache(maxsize=1)
def _byte_alphabet() -> dict[str, int]:
    """Byte-level BPE spells bytes by printable characters: Latin-1's own where they are printable, else from 256 on."""
    own = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in own]
    return {chr(b): b for b in own} | {chr(256 + i): b for i, b in enumerate(others)}


class TokenTexts:
    """Texts and bytes of a tokenizer's tokens."""

    def __init__(self, tokenizer: Tokenizer):
        self._tokenizer = tokenizer
        self.of = lru_cache(maxsize=1 << 16)(self._of)
        """(text, bytes) of an id; bytes is None where they are not known."""

    def _of(self, token_id: int) -> tuple[str, bytes | None]:
        spelled = self._tokenizer.id_to_token(token_id)
        if spelled is None:
            return "", b""
        text = self._tokenizer.decode([token_id])
        if "\ufffd" not in text:
            if spelled.startswith("▁"):  # SentencePiece's space, which decoding drops at the beginning of a text
                text = spelled.replace("▁", " ")
            return text, text.encode()
        if len(spelled) == 6 and spelled.startswith("<0x") and spelled.endswith(">"):
            return text, bytes.fromhex(spelled[3:5])
        alphabet = _byte_alphabet()
        if all(c in alphabet for c in spelled):
            return text, bytes(alphabet[c] for c in spelled)
        return text, None

    def name(self, token_id: int) -> str:
        """The text, or `bytes:\\x…` where it is no whole character: names of different tokens mostly differ."""
        text, raw = self.of(token_id)
        if "\ufffd" in text and raw is not None:
            return "bytes:" + "".join(f"\\x{b:02x}" for b in raw)
        return text

    def chat(self, entries: Sequence[TokenLogprob]) -> dict[str, Any]:
        """`logprobs` of a chat completion."""
        content = []
        for entry in entries:
            shown = self._alternative(entry.token_id, entry.logprob)
            content.append(shown | {"top_logprobs": [self._alternative(i, value) for i, value in entry.top]})
        return {"content": content}

    def text(self, entries: Sequence[TokenLogprob | int], top: int, offset: int) -> tuple[dict[str, Any], int]:
        """`logprobs` of a text completion, and the offset behind its last token.

        Args:
            entries: tokens with their log-probabilities; a bare id where there is none.
            top: alternatives wanted.
            offset: characters before the first token.
        """
        shown: dict[str, Any] = {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}
        for entry in entries:
            token_id = entry if isinstance(entry, int) else entry.token_id
            shown["tokens"].append(self.name(token_id))
            shown["text_offset"].append(offset)
            offset += len(self.of(token_id)[0])
            if isinstance(entry, int):
                shown["token_logprobs"].append(None)
                shown["top_logprobs"].append(None)
                continue
            shown["token_logprobs"].append(_finite(entry.logprob))
            best: dict[str, float] = {}
            for i, value in entry.top[:top]:
                best.setdefault(self.name(i), _finite(value))
            if top:  # the token itself is always among them
                best.setdefault(self.name(token_id), _finite(entry.logprob))
            shown["top_logprobs"].append(best if top else None)
        return shown, offset

    def _alternative(self, token_id: int, logprob: float) -> dict[str, Any]:
        text, raw = self.of(token_id)
        return {"token": text, "logprob": _finite(logprob), "bytes": None if raw is None else list(raw)}


def _finite(value: float) -> float:
    return max(value, _LOWEST)
