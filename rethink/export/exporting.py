"""`rethink export`: one model into a Hugging Face folder with its card, or into one GGUF file.

source ─► its tensors, shape and tokenizer ─► written under a temporary name ─► read back and compared ─► in place
"""

from __future__ import annotations

import copy
import dataclasses
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

import rethink
from rethink.errors import ModelError, RunFolderError, StorageFailure, UsageError
from rethink.eval.backend import fingerprint
from rethink.eval.evaluate import read_record, read_results
from rethink.export.exported import Origin, Source, open_source, origin_of
from rethink.export.model_card import Facts, write_card
from rethink.model.decoder.config import DecoderConfig
from rethink.model.gguf.tensors import GgufModel
from rethink.model.gguf.vocabulary import check_same, gguf_fields
from rethink.model.gguf.writer import GgufType, planned_bytes, write_gguf
from rethink.model.saving import save_hf_folder
from rethink.model.text.prompt import PromptRenderer
from rethink.model.text.trained_template import trained_template
from rethink.recipe.schema import PromptSection
from rethink.store.as_trained import AsTrained, write_as_trained
from rethink.store.atomic import replacing, storage_errors, write_folder, write_text
from rethink.types import Prompt

if TYPE_CHECKING:
    from torch import Tensor

Target = Literal["hf", "gguf"]
OnProgress = Callable[[int, int], None]
"""(bytes done, bytes in all)."""
CARD = "README.md"
HF_TYPES = ("f16", "bf16")
GGUF_TYPES: tuple[GgufType, ...] = ("f16", "bf16", "q8_0")
_HEADER_BYTES = 32 << 20
"""More than the vocabulary of any model takes."""
_OF_THE_FILE = ("architecture", "type", "file_type", "quantization_version", "alignment")
"""`general.*` keys that say how a file is made, and are not taken over from another."""


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written."""

    path: Path
    target: Target
    dtype: str
    """Of the matrices; `as stored` where the model's own types were kept."""
    nbytes: int
    """Of all files."""
    source_bytes: int
    """Of the weights before."""
    files: tuple[str, ...]
    notes: tuple[str, ...]
    """What the user should know: what was rounded, what the format cannot say."""


def export_model(
    source: str,
    out: Path,
    *,
    target: Target,
    dtype: str | None = None,
    evaluation: Path | None = None,
    as_is: bool = False,
    on_progress: OnProgress | None = None,
) -> Exported:
    """Write a model for others to load. `out` appears whole or not at all.

    Args:
        source: a run's folder, a Hugging Face folder, a GGUF file, `embedded` or a hub id.
        out: where to; must not exist.
        target: `hf` or `gguf`.
        dtype: `f16`, `bf16`, or for `gguf` also `q8_0`; None: as stored for `hf`, `f16` for `gguf`.
        evaluation: folder that `rethink eval --out` wrote, for the card.
        as_is: whether nothing is said of how the model was trained to be asked.
        on_progress: told while weights are written.

    Raises:
        UsageError: `out` exists, the model cannot be read or expressed, or the evaluation is of other weights.
        StorageFailure: the disk refuses.
    """
    check_request(out, target, dtype, evaluation)
    opened = open_source(source, as_gguf=target == "gguf", as_is=as_is)
    origin = origin_of(source, opened.run)
    if target == "gguf":
        opened, said = _with_template(opened)
        done = _export_gguf(opened, origin, out, dtype or "f16", on_progress)
    else:
        said = ()
        done = _export_hf(opened, origin, out, dtype, evaluation, on_progress)
    return dataclasses.replace(done, notes=(*opened.notes, *said, *done.notes))


def check_request(out: Path, target: Target, dtype: str | None, evaluation: Path | None) -> None:
    """What can be refused before anything is read.

    Raises:
        UsageError: the reason, and what to type instead.
    """
    allowed = HF_TYPES if target == "hf" else GGUF_TYPES
    if dtype is not None and dtype not in allowed:
        raise UsageError(f"--dtype {dtype} does not go with --to {target}; allowed are {', '.join(allowed)}")
    if target == "gguf" and evaluation is not None:
        raise UsageError("--evaluation goes into a model card, which a GGUF file does not have; use --to hf")
    if out.exists() or out.is_symlink():
        raise UsageError(f"{out} exists already, and nothing is overwritten: choose another --out, or remove it first")
    if target == "gguf" and out.suffix != ".gguf":
        raise UsageError(f"--out {out} does not end in .gguf, which programs expect; add it")


# --- GGUF ------------------------------------------------------------------------------------------------------------


def _export_gguf(source: Source, origin: Origin, out: Path, dtype: str, on_progress: OnProgress | None) -> Exported:
    config = source.config
    if config is None:
        raise ModelError(
            f"{source.given} is of an architecture that GGUF files are not written for here (llama, mistral, qwen2, "
            "qwen3 are); use --to hf"
        )
    kind = next(kind for kind in GGUF_TYPES if kind == dtype)
    vocabulary, notes = _vocabulary(source, config)
    _check_space(out, planned_bytes(config, kind) + _HEADER_BYTES)
    with storage_errors(out):
        out.parent.mkdir(parents=True, exist_ok=True)
    with replacing(out) as temporary:
        general = _general(source, origin)
        written = write_gguf(temporary, config, source.tensors, vocabulary, general, kind, on_progress)
        _check_file(temporary, config, source)
    rounded = (
        [f"{written.rounded} of {written.tensors} tensors hold values that {kind.upper()} rounds"]
        if written.rounded and kind != "q8_0"
        else []
    )
    return Exported(
        out, "gguf", kind, written.nbytes, _bytes_of(source), (out.name,), (*rounded, *written.notes, *notes)
    )


def _with_template(source: Source) -> tuple[Source, tuple[str, ...]]:
    """The model with a chat template that asks as it was trained, and what to say of that."""
    prompt = None if source.trained is None else source.trained.prompt
    if source.trained is None or prompt is None or prompt == PromptSection():
        return source, ()
    template = trained_template(source.tokenizer, prompt)
    if template is None:
        return source, (
            "no chat template can say how the model was trained to be asked, so the file has the model's own; --to hf "
            "keeps it in rethink.json",
        )
    tokenizer = copy.copy(source.tokenizer)
    tokenizer.chat_template = template
    note = f"the chat template asks as the model was trained ({source.trained.said()}); --as-is keeps the model's own"
    return dataclasses.replace(source, tokenizer=tokenizer), (note,)


def _vocabulary(source: Source, config: DecoderConfig) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The tokenizer's fields: those of the file it came from as they are, else made of the tokenizer."""
    if source.gguf_fields is None:
        return gguf_fields(source.tokenizer, config.vocab_size, source.given)
    return {key: value for key, value in source.gguf_fields.items() if key.startswith("tokenizer.")}, ()


def _general(source: Source, origin: Origin) -> dict[str, Any]:
    """`general.*` keys: name, licence and base model as far as they are known, and those of the file it came from."""
    keys: dict[str, Any] = {"general.name": source.name}
    if origin.licence is not None:
        keys["general.license"] = origin.licence
    taken = {} if source.gguf_fields is None else _taken_over(source.gguf_fields)
    if origin.model is not None and "general.base_model.count" not in taken:
        organisation, _, name = origin.model.partition("/")
        keys |= {
            "general.base_model.count": 1,
            "general.base_model.0.name": name,
            "general.base_model.0.organization": organisation,
            "general.base_model.0.repo_url": f"https://huggingface.co/{origin.model}",
        }
    return keys | taken


def _taken_over(fields: Mapping[str, Any]) -> dict[str, Any]:
    own = {f"general.{name}" for name in _OF_THE_FILE}
    return {k: v for k, v in fields.items() if k.startswith("general.") and k not in own and v not in ([], None)}


def _check_file(path: Path, config: DecoderConfig, source: Source) -> None:
    """Read the file's header back: it must describe the same model.

    Raises:
        ModelError: it does not, since the format cannot say something about this model.
    """
    again = GgufModel(path)
    check_same(source.tokenizer, again.fields, source.given, normalised=True)
    expected = as_gguf_says(config)
    if again.config != expected:
        names = [field.name for field in dataclasses.fields(DecoderConfig)]
        name = next(name for name in names if getattr(again.config, name) != getattr(expected, name))
        raise ModelError(
            f"a GGUF file cannot say that {source.given} has {name} {getattr(expected, name)!r} (it would be read as "
            f"{getattr(again.config, name)!r}); use --to hf"
        )


def as_gguf_says(config: DecoderConfig) -> DecoderConfig:
    """The shape as a reader of the file sees it: numbers in float32, Mistral without a window as Llama."""
    plain = config.architecture == "mistral" and config.sliding_window is None
    return dataclasses.replace(
        config,
        architecture="llama" if plain else config.architecture,
        rms_norm_eps=float(str(np.float32(config.rms_norm_eps))),
        rope_theta=float(str(np.float32(config.rope_theta))),
    )


def _bytes_of(source: Source) -> int:
    if isinstance(source.tensors, GgufModel):
        return source.tensors.path.stat().st_size
    if source.folder is None:
        return 0
    return sum(path.stat().st_size for path in source.folder.glob("*.safetensors"))


def _check_space(out: Path, needed: int) -> None:
    folder = next(path for path in out.absolute().parents if path.is_dir())
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise StorageFailure(
            f"{out} takes {needed / 1e9:.1f} GB, and {folder} has {free / 1e9:.1f} GB free; free some space, or choose "
            "another --out"
        )


# --- Hugging Face folder ---------------------------------------------------------------------------------------------


class _Watched(Mapping[str, "Tensor"]):
    """The tensors, telling how far their reading is."""

    def __init__(self, tensors: Mapping[str, Tensor], total: int, on_progress: OnProgress):
        self._tensors, self._total, self._tell, self._done = tensors, total, on_progress, 0

    def __getitem__(self, name: str) -> Tensor:
        tensor = self._tensors[name]
        self._done = min(self._done + tensor.nbytes, self._total)
        self._tell(self._done, self._total)
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)


def _export_hf(
    source: Source,
    origin: Origin,
    out: Path,
    dtype: str | None,
    evaluation: Path | None,
    on_progress: OnProgress | None,
) -> Exported:
    import torch

    assert source.folder is not None
    details = _evaluated(source, evaluation)
    stored = None if dtype is None else {"f16": torch.float16, "bf16": torch.bfloat16}[dtype]
    size = _bytes_of(source)
    _check_space(out, size)
    tensors = source.tensors if on_progress is None else _Watched(source.tensors, size, on_progress)
    kept_card = _kept_card(source, details)

    def write(folder: Path) -> None:
        save_hf_folder(folder, tensors, source.hf_config, source.tokenizer, stored)
        kind = json.loads((folder / "config.json").read_text("utf-8"))["dtype"]
        card = kept_card if kept_card is not None else write_card(_facts(source, origin, kind, details))
        write_text(folder / CARD, card)
        if source.trained is not None:
            write_as_trained(folder, source.trained)

    write_folder(out, write)
    files = tuple(sorted(path.name for path in out.iterdir()))
    nbytes = sum((out / name).stat().st_size for name in files)
    return Exported(out, "hf", dtype or "as stored", nbytes, size, files, _hf_notes(source, origin, kept_card))


def _hf_notes(source: Source, origin: Origin, kept_card: str | None) -> tuple[str, ...]:
    notes = []
    if kept_card is not None:
        notes.append("the card is the model's own, unchanged")
    elif origin.licence is None:
        notes.append("the base model's licence is not known: add it to the card before publishing")
    if source.folder is not None and any(source.folder.glob("*.py")):
        notes.append("the model's Python files were not copied: only code that is trusted belongs beside a model")
    return tuple(notes)


def _kept_card(source: Source, details: Mapping[str, Any]) -> str | None:
    """A model that was neither trained nor measured here keeps the card that it has."""
    if source.run is not None or details or source.folder is None:
        return None
    try:
        return (source.folder / CARD).read_text("utf-8", "replace")
    except OSError:
        return None


def _evaluated(source: Source, evaluation: Path | None) -> dict[str, Any]:
    """`details.json` of an evaluation of these weights; where none is named, one in the run's folder."""
    folder = evaluation
    if folder is None:
        if source.run is None or not (source.run.path / "evaluations" / "details.json").is_file():
            return {}
        folder = source.run.path / "evaluations"
    try:
        record = read_record(folder)
        details = read_results(folder, record, "details.json")
        if not details:
            raise RunFolderError(f"`{folder / 'details.json'}` is missing")
        weights = record["backend"].get("weights")
    except RunFolderError as error:
        raise UsageError(
            f"--evaluation {folder} is no folder of `rethink eval --out` ({type(error).__name__}: {error}); it holds "
            "evaluation.json and details.json. Where several models or modes were evaluated, give one's subfolder"
        ) from error
    if source.folder is not None and weights is not None and weights != fingerprint(source.folder):
        if evaluation is None:
            return {}
        raise UsageError(
            f"--evaluation {folder} evaluated other weights than {source.given} "
            f"(it evaluated {record['backend'].get('model')}); evaluate this model first: "
            f"rethink eval --model {source.given} --bench …"
        )
    return dict(details)


def _facts(source: Source, origin: Origin, dtype: str, details: Mapping[str, Any]) -> Facts:
    run = source.run
    config, trained = source.config, source.trained
    context = config.max_position_embeddings if config else source.hf_config.get("max_position_embeddings")
    return Facts(
        name=source.name,
        origin=origin,
        context=context if isinstance(context, int) else None,
        dtype=dtype,
        parameters=sum(int(np.prod(_shape(source.tensors, name))) for name in source.tensors),
        has_template=source.tokenizer.chat_template is not None,
        version=rethink.__version__,
        recipe=None if run is None else run.recipe,
        recipe_yaml="" if run is None else run.recipe_yaml,
        recipe_hash="" if run is None else run.recipe_hash,
        summary=None if run is None else run.read_summary(),
        step=source.step,
        environment={} if run is None else run.environment,
        details=details,
        trained=trained,
        prompt=None if trained is None else _prompt_of(source, trained),
    )


def _prompt_of(source: Source, trained: AsTrained) -> Prompt | None:
    """What the model is asked with, `{question}` standing for the question; None where it is asked by its template."""
    if trained.prompt is None or trained.prompt == PromptSection():
        return None
    renderer = PromptRenderer(source.tokenizer, trained.prompt, context=1 << 30)
    return renderer.render_turns([{"role": "user", "content": "{question}"}])


def _shape(tensors: Mapping[str, Tensor], name: str) -> tuple[int, ...]:
    of = getattr(tensors, "shape", None)
    return tuple(of(name)) if of is not None else tuple(tensors[name].shape)
