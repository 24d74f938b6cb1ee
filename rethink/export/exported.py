"""What is exported: a run's model, a Hugging Face folder, a GGUF file or a hub id; and where it came from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from rethink.errors import ModelError, RecipeError, UsageError
from rethink.model.decoder.config import DecoderConfig
from rethink.model.embedded import embedded_gguf
from rethink.model.hub import is_hub_id
from rethink.model.loading import EMBEDDED, load_checkpoint
from rethink.model.tokenizer.tokenizer import Tokenizer
from rethink.reading import read_bounded_text
from rethink.recipe.yaml_text import MOST_BYTES, load_yaml
from rethink.store.as_trained import AsTrained, read_as_trained
from rethink.store.run_folder import RunFolder

if TYPE_CHECKING:
    from torch import Tensor

EMBEDDED_NAME, EMBEDDED_LICENCE = "HuggingFaceTB/SmolLM2-135M-Instruct", "apache-2.0"
_REWARD_MODEL = "reward_model.json"
_LONGEST_LINE = 16
"""Runs that continued each other's models, at most so many are followed."""


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """A model to export; weights are read when they are asked for."""

    given: str
    name: str
    """For the card and the file's metadata."""
    config: DecoderConfig | None
    """None: only `transformers` computes it."""
    hf_config: Mapping[str, Any]
    """Empty where a GGUF file is read directly."""
    tensors: Mapping[str, Tensor]
    tokenizer: Tokenizer
    folder: Path | None
    """Its Hugging Face folder; None where a GGUF file is read directly."""
    gguf_fields: Mapping[str, Any] | None
    """Key/value pairs of the GGUF file that is read directly."""
    run: RunFolder | None
    """The run that trained it."""
    step: int | None
    """Which of the run's models, where it is not the last."""
    trained: AsTrained | None = None
    """How it was trained, where it says so."""
    notes: tuple[str, ...] = ()
    """What the user should know."""


@dataclass(frozen=True, slots=True)
class Origin:
    """The model at the beginning of a line of runs."""

    model: str | None
    """Hub id; None where it is not known."""
    licence: str | None


def open_source(path: str, *, as_gguf: bool, as_is: bool = False) -> Source:
    """Find the model and read its headers.

    Args:
        path: a run's folder, a Hugging Face folder, a GGUF file, `embedded` or a hub id.
        as_gguf: read a GGUF file directly, with its own tokenizer fields, rather than as a Hugging Face folder.
        as_is: whether it does not matter how the model was trained.

    Raises:
        UsageError: there is no such model, it is none that can be exported, or a file of it is damaged.
    """
    local = Path(path).expanduser()
    run, folder = _run_and_folder(local)
    if folder is not None and (folder / _REWARD_MODEL).is_file():
        raise ModelError(
            f"{path} is a reward model: its value head has no place in a language model's folder or GGUF file, so the "
            "export would be another model. Give the policy's folder"
        )
    step = None
    if run is not None and folder == run.best_path:
        step = (run.best() or {}).get("step")
    name = _name(path, run)
    gguf = embedded_gguf() if path == EMBEDDED else local if local.suffix == ".gguf" and local.is_file() else None
    if as_gguf and gguf is not None:
        from rethink.model.gguf.tensors import GgufModel

        model = GgufModel(gguf)
        tokenizer = Tokenizer.from_gguf_fields(model.fields, path)
        fields = model.fields
        return Source(path, name, model.config, {}, model, tokenizer, None, fields, run, step)
    checkpoint = load_checkpoint(str(folder) if folder is not None else path)
    trained, notes = (None, ()) if as_is else _trained(checkpoint.folder)
    return Source(
        path,
        name,
        checkpoint.config,
        checkpoint.hf_config,
        checkpoint.tensors,
        checkpoint.tokenizer,
        checkpoint.folder,
        None,
        run,
        step,
        trained,
        notes,
    )


def _trained(folder: Path) -> tuple[AsTrained | None, tuple[str, ...]]:
    """How a model was trained; or why that is not known although a file says it."""
    try:
        return read_as_trained(folder), ()
    except UsageError as error:
        return None, (f"{error} The model is exported without it.",)


def origin_of(path: str, run: RunFolder | None = None) -> Origin:
    """Follow a model to the one that it began from.

    Args:
        path: the model.
        run: the run that trained it, where it is known already.
    """
    for _ in range(_LONGEST_LINE):
        if run is not None:
            path = model_of_recipe(run.recipe) or ""
        if path == EMBEDDED:
            return Origin(EMBEDDED_NAME, EMBEDDED_LICENCE)
        local = Path(path).expanduser()
        if not path or not local.exists():
            return Origin(path, _licence_on_hub(path)) if is_hub_id(path) else Origin(None, None)
        run, folder = _run_and_folder(local)
        if run is None:
            return _declared(local if folder is None else folder)
    return Origin(None, None)


def model_of_recipe(recipe: Mapping[str, Any]) -> str | None:
    """The model that a resolved recipe begins with; None where it names none (a pipeline's stages do)."""
    model = recipe.get("model")
    path = model.get("path") if isinstance(model, Mapping) else model
    return path if isinstance(path, str) else None


def _run_and_folder(local: Path) -> tuple[RunFolder | None, Path | None]:
    """The run that `local` belongs to, and the folder of the model; None where there is none."""
    if not local.is_dir():
        return None, None
    if RunFolder.exists(local):
        run = RunFolder.open(local)
        return run, run.model_path
    if local.name in ("model", "best") and RunFolder.exists(local.parent):
        return RunFolder.open(local.parent), local.parent / local.name
    return None, local


def _name(path: str, run: RunFolder | None) -> str:
    if run is not None:
        return str(run.recipe.get("name") or run.path.resolve().name)
    if path == EMBEDDED:
        return EMBEDDED_NAME.split("/")[1]
    return Path(path).expanduser().resolve().stem if path.endswith(".gguf") else Path(path).expanduser().resolve().name


def _declared(path: Path) -> Origin:
    """What a folder's card, or a GGUF file's header, says of its base model and licence."""
    if path.is_dir():
        front = front_matter(path)
        base = front.get("base_model")
        base = base[0] if isinstance(base, list) and base else base
        return Origin(base if isinstance(base, str) and is_hub_id(base) else None, _licence(front))
    from gguf import GGUFReader

    try:
        fields = GGUFReader(path, "r").fields
        url = fields["general.base_model.0.repo_url"].contents() if "general.base_model.0.repo_url" in fields else ""
        licence = fields["general.license"].contents() if "general.license" in fields else None
    except Exception:  # a damaged header can break the reader in any way; the origin is then not known
        return Origin(None, None)
    prefix = "https://huggingface.co/"
    model = str(url).removeprefix(prefix) if str(url).startswith(prefix) else None
    return Origin(model if model and is_hub_id(model) else None, licence)


def _licence_on_hub(hub_id: str) -> str | None:
    """What the card says that was downloaded with the model; nothing is fetched."""
    from huggingface_hub import try_to_load_from_cache

    path = try_to_load_from_cache(hub_id, "README.md")
    return _licence(front_matter(Path(path).parent)) if isinstance(path, str) else None


def _licence(front: Mapping[str, Any]) -> str | None:
    licence = front.get("license")
    return licence if isinstance(licence, str) else None


def front_matter(folder: Path) -> dict[str, Any]:
    """The YAML at the head of a folder's card; empty where there is none."""
    try:
        text = read_bounded_text(folder / "README.md", MOST_BYTES)
    except (OSError, ValueError):
        return {}
    if not text.startswith("---\n"):
        return {}
    try:
        found = load_yaml(text[4:].split("\n---", 1)[0])
    except (yaml.YAMLError, RecipeError):
        return {}
    return found if isinstance(found, dict) else {}
