"""From what a recipe calls a model to its configuration, weights and tokenizer.

`embedded`, a local Hugging Face folder, a GGUF file and a hub id all end as a Hugging Face folder that is read
lazily. A GGUF file is dequantised once and the result cached.
"""

from __future__ import annotations

import difflib
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rethink.errors import ModelError
from rethink.model.decoder.config import DecoderConfig
from rethink.model.decoder.hf_config import expected_shapes, parse_hf_config, to_hf_config
from rethink.model.embedded import SHA256, embedded_gguf
from rethink.model.files import read_json_object
from rethink.model.hub import download, is_hub_id
from rethink.model.notes import note_once
from rethink.model.safetensors_folder import HEAD, FolderTensors
from rethink.model.saving import save_hf_folder
from rethink.model.tiny import SEED, TINY, write_tiny
from rethink.model.tokenizer.tokenizer import Tokenizer
from rethink.store.cache import cache_root, cached_entry, cached_folder
from rethink.store.contents import check_contents
from rethink.store.run_folder import RunFolder

if TYPE_CHECKING:
    from torch import Tensor

    from rethink.recipe.schema import ModelSection

EMBEDDED = "embedded"
_CONVERSION = 1
"""Part of the cache's keys: raise it whenever a conversion gives other files than before."""
_PROBE_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, eq=False)
class Checkpoint:
    """A model that can be loaded: nothing but headers has been read yet."""

    config: DecoderConfig | None
    """Shape for our decoder; None when the architecture is not of its family (see `reason`)."""
    hf_config: dict[str, Any]
    """Content of `config.json`."""
    tensors: Mapping[str, Tensor]
    """Hugging Face names to tensors, each read when asked for."""
    tokenizer: Tokenizer
    source: str
    """What the recipe said."""
    folder: Path
    """The Hugging Face folder that is read."""
    reason: str | None = None
    """Why `config` is None."""
    revision: str | None = None
    """What the recipe said with it."""

    @property
    def through_transformers(self) -> str:
        """What a user should know where `config` is None."""
        return (
            f"{self.source} runs through transformers ({self.reason}): correct, but slower than the decoder of Rethink."
        )


def load_model(model: ModelSection, *, headers_only: bool = False) -> Checkpoint:
    """The model of a recipe's section `model`; arguments and errors as `load_checkpoint`."""
    return load_checkpoint(
        model.path, revision=model.revision, trust_remote_code=model.trust_remote_code, headers_only=headers_only
    )


def load_checkpoint(
    path: str,
    *,
    revision: str | None = None,
    trust_remote_code: bool = False,
    cache_dir: Path | None = None,
    headers_only: bool = False,
) -> Checkpoint:
    """Find a model and read its headers.

    Args:
        path: `embedded`, `tiny-random` (a toy with random weights), a local Hugging Face folder, a run's folder (its
            `model/`), a GGUF file, or a hub id `organisation/name`.
        revision: branch, tag or commit of a hub id.
        trust_remote_code: whether a hub repository's Python files are fetched as well (they are not run here).
        cache_dir: where converted GGUF files are kept; None: `$RETHINK_CACHE` or `~/.cache/rethink`.
        headers_only: for estimates: a GGUF file is not converted. Its tensors are dequantised when they are asked for,
            and `folder` is the file itself.

    Raises:
        ModelError: nothing is found, or what is found cannot be read; the message says what to give instead.
        RunFolderError: a file of a run's model is not what was written.
        StorageFailure: a converted model cannot be cached.
        UsageError: another user owns the cache, or may write there.
    """
    if headers_only and (gguf := _gguf_file(path)) is not None:
        return _header_of(gguf, path)
    folder = _resolve(path, revision, trust_remote_code, cache_root(cache_dir))
    if not headers_only:
        check_contents(folder)
    hf_config = read_json_object(folder / "config.json")
    parsed = parse_hf_config(hf_config, path)
    tensors = FolderTensors(folder)
    tied = hf_config.get("tie_word_embeddings") is True
    if tied and not tensors.settle_head(tied):
        note_once(
            f"{path} has a {HEAD} that differs from its embedding, so it is used, as in transformers, although "
            "config.json says `tie_word_embeddings: true`"
        )
        hf_config["tie_word_embeddings"] = False
        parsed = parse_hf_config(hf_config, path)
    if parsed.config is not None:
        tensors.check(expected_shapes(parsed.config))
    tokenizer = Tokenizer.from_folder(folder)
    _check_vocabulary(parsed.config, tokenizer, path)
    return Checkpoint(parsed.config, hf_config, tensors, tokenizer, path, folder, parsed.reason, revision)


def _gguf_file(path: str) -> Path | None:
    """The GGUF file that a recipe's word means, where it means one."""
    if path == EMBEDDED:
        return embedded_gguf()
    local = Path(path).expanduser()
    return local if local.suffix == ".gguf" and local.is_file() else None


def _header_of(file: Path, source: str) -> Checkpoint:
    from rethink.model.gguf.tensors import GgufModel

    model = GgufModel(file)
    tokenizer = Tokenizer.from_gguf_fields(model.fields, str(file))
    _check_vocabulary(model.config, tokenizer, source)
    hf_config = to_hf_config(model.config)
    for name in ("bos", "eos", "pad"):
        token_id = getattr(tokenizer, f"{name}_id")
        if token_id is not None:
            hf_config[f"{name}_token_id"] = token_id
    return Checkpoint(model.config, hf_config, model, tokenizer, source, file)


def _check_vocabulary(config: DecoderConfig | None, tokenizer: Tokenizer, source: str) -> None:
    if config is not None and tokenizer.vocab_size > config.vocab_size:
        raise ModelError(
            f"the tokenizer of {source} has {tokenizer.vocab_size} tokens and its model only "
            f"{config.vocab_size}: they belong to different models. Download both again"
        )


def _resolve(path: str, revision: str | None, trust_remote_code: bool, root: Path) -> Path:
    """The Hugging Face folder that `path` means, after download and conversion."""
    if path == EMBEDDED:
        return _embedded_folder(root)
    if path == TINY:
        tokenizer = Tokenizer.from_folder(_embedded_folder(root))
        return cached_folder(root, f"{TINY}-{SEED}-v{_CONVERSION}", lambda folder: write_tiny(folder, tokenizer))
    if (folder := local_folder(path)) is not None:
        return folder
    local = Path(path).expanduser()
    if local.is_file():
        if local.suffix != ".gguf":
            raise ModelError(
                f"{path} is a file, but no GGUF file; give a .gguf file, or the folder that holds config.json and "
                "the safetensors files"
            )
        return cached_folder_of_gguf(local, root)
    hint = _near_matches(path)
    if is_hub_id(path) and local.suffix != ".gguf":
        return download(path, revision, trust_remote_code, hint)
    raise ModelError(
        f"there is no model {path!r}: it is neither `embedded`, nor a folder or GGUF file that exists, nor a hub id "
        f"(organisation/name){hint}"
    )


def local_folder(path: str) -> Path | None:
    """The Hugging Face folder that a path or a run's folder means; None where there is no folder of that name.

    Raises:
        ModelError: it is a run's folder without a model.
    """
    local = Path(path).expanduser()
    if not local.is_dir():
        return None
    return _model_of_run(local) if RunFolder.exists(local) else local


def _model_of_run(path: Path) -> Path:
    """The exported model of a run."""
    folder = RunFolder.open(path).model_path
    if not (folder / "config.json").is_file():
        raise ModelError(
            f"the run {path} has no exported model yet: it is written when the run finishes. Continue the run with "
            f"--resume, or give {path / 'best'} if it exists"
        )
    return folder


def _embedded_folder(root: Path) -> Path:
    # The hash is part of the key, so an entry that is there was made from the right file.
    key = f"embedded-{SHA256[:16]}-v{_CONVERSION}"
    return cached_entry(root, key) or _convert(embedded_gguf(), root, key)


def cached_folder_of_gguf(path: Path, root: Path) -> Path:
    """The Hugging Face folder of a GGUF file, converted when the cache does not hold it.

    The key is made of name, size, time of change, and the first and last MiB of the file.

    Raises:
        ModelError: the file cannot be read.
        StorageFailure: the cache cannot be written.
    """
    try:
        status = path.stat()
        digest = hashlib.sha256(f"{status.st_size} {status.st_mtime_ns}".encode())
        with path.open("rb") as file:
            digest.update(file.read(_PROBE_BYTES))
            file.seek(max(status.st_size - _PROBE_BYTES, 0))
            digest.update(file.read(_PROBE_BYTES))
    except OSError as error:
        raise ModelError(f"{path} cannot be read ({error.strerror or error}); check the path") from error
    stem = re.sub(r"[^\w.-]", "_", path.stem)[:60]
    return _convert(path, root, f"{stem}-{digest.hexdigest()[:16]}-v{_CONVERSION}")


def _convert(path: Path, root: Path, key: str) -> Path:
    if (entry := cached_entry(root, key)) is not None:
        return entry
    from rethink.model.gguf.tensors import GgufModel

    found = _header_of(path, str(path))
    assert isinstance(found.tensors, GgufModel)
    return cached_folder(
        root,
        key,
        lambda folder: save_hf_folder(folder, found.tensors, found.hf_config, found.tokenizer),
        found.tensors.nbytes(),
    )


def _near_matches(path: str) -> str:
    """`; did you mean …` with existing paths of a similar name, or nothing."""
    local = Path(path).expanduser()
    parent = local.parent
    candidates = {EMBEDDED: EMBEDDED, TINY: TINY} if parent == Path(".") else {}
    try:
        for entry in parent.iterdir():
            if entry.is_dir() or entry.suffix == ".gguf":
                candidates[entry.name] = str(parent / entry.name)
    except OSError:
        pass
    names = difflib.get_close_matches(local.name, candidates, n=3, cutoff=0.5)
    return f"; did you mean {', '.join(candidates[name] for name in names)}?" if names else ""
