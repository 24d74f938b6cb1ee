"""Earlier versions of the policy that are still to sample: copied, lent to the engine, and kept in checkpoints."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from rethink.errors import RunFolderError
from rethink.model.language_model import LanguageModel
from rethink.rollout.engine import RolloutEngine

Weights = Mapping[str, Tensor]
"""A copy of a model's parameters in its compute type, by name."""
_FILE = re.compile(r"weights-(\d{6,})\.safetensors")


def copy_of(model: LanguageModel) -> Weights:
    """The parameters as they are now."""
    return {name: parameter.detach().to("cpu", copy=True) for name, parameter in model.named_parameters()}


@contextmanager
def lent(weights: Weights, version: int, engine: RolloutEngine, model: LanguageModel) -> Iterator[None]:
    """Within, an engine samples from another version of the model that it shares with a trainer."""
    own, present = copy_of(model), engine.version
    assert present is not None
    try:
        _put(model, weights)
        engine.publish(model, version)
        yield
    finally:
        _put(model, own)
        engine.publish(model, present)


def _put(model: LanguageModel, weights: Weights) -> None:
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(weights[name])


def write_versions(folder: Path, versions: Mapping[int, Weights]) -> None:
    """Add versions to a checkpoint."""
    for version, weights in versions.items():
        save_file({name: t.contiguous() for name, t in weights.items()}, folder / f"weights-{version:06d}.safetensors")


def versions_in(folder: Path) -> dict[int, Path]:
    """The versions that a checkpoint holds, and where."""
    return {int(match[1]): path for path in sorted(folder.iterdir()) if (match := _FILE.fullmatch(path.name))}


def read_versions(folder: Path) -> dict[int, Weights]:
    """The versions that a checkpoint holds.

    Raises:
        RunFolderError: a file cannot be read.
    """
    try:
        return {version: load_file(path) for version, path in versions_in(folder).items()}
    except (SafetensorError, OSError) as error:
        raise RunFolderError(f"the checkpoint `{folder}` cannot be read ({error}): it is damaged.") from error
