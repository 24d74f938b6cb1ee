"""A model's tokenizer: text to ids and back, its special tokens, and its chat template.

It needs only the `tokenizers` library and reads either a Hugging Face folder (`tokenizer.json`) or the fields of
a GGUF file.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as Backend

from rethink.errors import ModelError
from rethink.model.files import read_json_object, read_text
from rethink.model.tokenizer.chat_template import render
from rethink.reading import check_regular_file
from rethink.store.atomic import write_json, write_text

END_OF_TURN_TOKENS = (
    "<|im_end|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|end_of_text|>",
    "<|endoftext|>",
    "<end_of_turn>",
    "<|end_of_turn|>",
    "<|end|>",
    "<｜end▁of▁sentence｜>",
    "</s>",
)
"""Names that end a turn in the models of this family: they end a completion wherever they are special tokens."""
_MOST_BYTES = 1 << 28
"""Of `tokenizer.json`; the largest real ones have thirty megabytes."""
_NAMED_TOKENS = ("bos_token", "eos_token", "pad_token", "unk_token")


class Tokenizer:
    """Text to token ids and back.

    Args:
        backend: the tokenizer proper.
        config: the content of `tokenizer_config.json` (special tokens by name, chat template).
        generation: the content of `generation_config.json`, whose `eos_token_id` also ends a turn.
        source: where it is from, for messages.
    """

    def __init__(
        self,
        backend: Backend,
        config: Mapping[str, Any],
        generation: Mapping[str, Any] | None = None,
        source: str = "the model",
    ):
        self.source = source
        self.backend = backend
        """The tokenizer proper."""
        self.backend.no_truncation()
        self.backend.no_padding()
        self.config = dict(config)
        """`tokenizer_config.json` without its chat template."""
        self._generation = dict(generation or {})
        self.chat_template: str | None = _default_template(self.config.pop("chat_template", None))
        self._special = {
            i for i, token in backend.get_added_tokens_decoder().items() if token.special or token.content in _EOT_SET
        }
        self.bos_id = self._named_id("bos_token")
        self.eos_id = self._named_id("eos_token")
        self.pad_id = self._named_id("pad_token")
        self.end_of_turn_ids = self._find_end_of_turn()
        self.adds_bos = self._bos_is_added()
        """Whether the model expects texts (not rendered chats) to begin with `bos_id`."""

    @classmethod
    def from_folder(cls, folder: Path) -> Tokenizer:
        """Read `tokenizer.json`, `tokenizer_config.json`, `generation_config.json` and `chat_template.jinja`.

        Raises:
            ModelError: `tokenizer.json` is missing or unreadable.
        """
        path = folder / "tokenizer.json"
        if not path.is_file():
            raise ModelError(
                f"{folder} has no tokenizer.json; where the folder has another kind of tokenizer, write one with "
                "`AutoTokenizer.from_pretrained(DIR).save_pretrained(DIR)` (transformers), else download it again"
            )
        try:
            check_regular_file(path, _MOST_BYTES)
            backend = Backend.from_file(str(path))
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # the library raises a bare Exception, and a panic of Rust is not even that
            raise ModelError(f"{path} is not a readable tokenizer ({error}); download the model again") from error
        config = read_json_object(folder / "tokenizer_config.json", missing_ok=True)
        for name, token in read_json_object(folder / "special_tokens_map.json", missing_ok=True).items():
            config.setdefault(name, token)
        if (folder / "chat_template.jinja").is_file():
            config["chat_template"] = read_text(folder / "chat_template.jinja")
        elif "chat_template" not in config:
            separate = read_json_object(folder / "chat_template.json", missing_ok=True)
            config["chat_template"] = separate.get("chat_template")
        generation = read_json_object(folder / "generation_config.json", missing_ok=True)
        return cls(backend, config, generation, str(folder))

    @classmethod
    def from_gguf_fields(cls, fields: Mapping[str, Any], source: str = "the GGUF file") -> Tokenizer:
        """Rebuild the tokenizer that a GGUF file carries; `fields` are its `tokenizer.*` key/value pairs.

        Raises:
            ModelError: the kind of tokenizer or its pre-tokenizer is not known, or the fields contradict each other.
        """
        from rethink.model.tokenizer.gguf_tokenizer import build_backend

        backend, config, generation = build_backend(fields, source)
        return cls(backend, config, generation, source)

    def encode(self, text: str) -> list[int]:
        """Token ids of `text`. Special tokens written in it are recognised; none is added."""
        ids: list[int] = self.backend.encode(text, add_special_tokens=False).ids
        return ids

    def decode(self, ids: Iterable[int], *, skip_special: bool = False) -> str:
        """Text of token ids; bytes that are no UTF-8 become U+FFFD, ids without a token nothing."""
        kept = [int(i) for i in ids]
        if skip_special:
            kept = [i for i in kept if i not in self._special]
        text: str = self.backend.decode(kept, skip_special_tokens=False)
        return text

    @cached_property
    def vocab_size(self) -> int:
        """One more than the highest id that has a token. The model's vocabulary may be padded beyond it."""
        return max(self.backend.get_vocab(with_added_tokens=True).values(), default=-1) + 1

    @property
    def added_ids(self) -> frozenset[int]:
        """Ids of the tokens that are recognised in text before any cutting, special or not."""
        return frozenset(self.backend.get_added_tokens_decoder())

    def token_to_id(self, token: str) -> int | None:
        """Id of a token by its spelling in the vocabulary; None where there is none."""
        found: int | None = self.backend.token_to_id(token)
        return found

    def id_to_token(self, token_id: int) -> str | None:
        """Spelling of an id in the vocabulary; None where there is none."""
        found: str | None = self.backend.id_to_token(token_id)
        return found

    def render_chat(self, messages: Sequence[Mapping[str, str]], add_generation_prompt: bool) -> str:
        """The conversation as the model's chat template writes it.

        Raises:
            ModelError: there is no chat template, or it refuses the messages, or it fails.
        """
        if self.chat_template is None:
            raise ModelError(
                "this model has no chat template (it is probably a base model); set prompt.template to r1-zero or "
                "raw, or use an instruction-tuned model"
            )
        return render(self.chat_template, messages, add_generation_prompt, self._special_spellings())

    def save(self, folder: Path) -> None:
        """Write `tokenizer.json`, `tokenizer_config.json` (with the template) and `generation_config.json`."""
        write_text(folder / "tokenizer.json", self.backend.to_str(pretty=True))
        config = {"tokenizer_class": "PreTrainedTokenizerFast"} | self.config
        if self.chat_template is not None:
            config["chat_template"] = self.chat_template
        write_json(folder / "tokenizer_config.json", config)
        write_json(folder / "generation_config.json", self._generation or self._generation_from_tokens())
        # A template beside the configuration would win over it when the folder is read again.
        (folder / "chat_template.jinja").unlink(missing_ok=True)

    def _special_spellings(self) -> dict[str, str]:
        spelled = {name: _spelling(self.config.get(name)) for name in _NAMED_TOKENS}
        return {name: token for name, token in spelled.items() if token is not None}

    def _named_id(self, name: str) -> int | None:
        token = _spelling(self.config.get(name))
        return None if token is None else self.token_to_id(token)

    def _find_end_of_turn(self) -> frozenset[int]:
        declared = self._generation.get("eos_token_id")
        listed = declared if isinstance(declared, list) else [] if declared is None else [declared]
        for i in listed:
            if type(i) is not int or i < 0:
                raise ModelError(
                    f"generation_config.json has {str(i)[:60]!r} as `eos_token_id`, which must be the id of a token or "
                    "a list of ids; correct it, or download the model again"
                )
        named = {i for i in map(self.token_to_id, END_OF_TURN_TOKENS) if i in self._special}
        return frozenset(listed) | named | ({self.eos_id} if self.eos_id is not None else set())

    def _bos_is_added(self) -> bool:
        if self.bos_id is None:
            return False
        ids = self.backend.encode("", add_special_tokens=True).ids
        return bool(ids) and ids[0] == self.bos_id

    def _generation_from_tokens(self) -> dict[str, Any]:
        values = {
            "bos_token_id": self.bos_id,
            "eos_token_id": sorted(self.end_of_turn_ids) or None,
            "pad_token_id": self.pad_id,
        }
        return {key: value for key, value in values.items() if value is not None}


_EOT_SET = frozenset(END_OF_TURN_TOKENS)


def _default_template(value: Any) -> str | None:
    """The template itself, or the one called `default` of a list of named ones."""
    if isinstance(value, list):
        named = {entry.get("name"): entry.get("template") for entry in value if isinstance(entry, Mapping)}
        value = named.get("default")
    return value if isinstance(value, str) else None


def _spelling(value: Any) -> str | None:
    """A special token, written as a string or as a mapping with `content`."""
    if isinstance(value, Mapping):
        value = value.get("content")
    return value if isinstance(value, str) else None
