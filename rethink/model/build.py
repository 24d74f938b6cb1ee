"""From a checkpoint to a model that computes: our decoder, or `transformers` for architectures outside its family."""

from __future__ import annotations

import torch
from torch import Tensor

from rethink.model.decoder.decoder import Decoder
from rethink.model.gguf.tensors import GgufModel
from rethink.model.language_model import LanguageModel
from rethink.model.loading import Checkpoint
from rethink.model.safetensors_folder import FolderTensors

DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}


def build_model(
    checkpoint: Checkpoint,
    dtype: str,
    device: str,
    *,
    trust_remote_code: bool = False,
    force_transformers: bool = False,
) -> LanguageModel:
    """Load the weights.

    Args:
        checkpoint: what `load_checkpoint` found.
        dtype: `bfloat16` or `float32`.
        device: `cpu` or `cuda`.
        trust_remote_code: whether code of the model's repository may run (`transformers` path only).
        force_transformers: use `transformers` although our decoder could.
    """
    if checkpoint.config is not None and not force_transformers:
        model = Decoder(checkpoint.config, checkpoint.tensors, DTYPES[dtype], device)
        _close(checkpoint)
        return model
    from rethink.model.transformers_model import TransformersModel

    return TransformersModel.load(checkpoint, DTYPES[dtype], device, trust_remote_code=trust_remote_code)


def exact_weights(checkpoint: Checkpoint, model: object) -> dict[str, Tensor]:
    """The checkpoint's values of a decoder's parameters before they were rounded to its type: fp32 tensors by name.

    Empty where nothing was rounded (fp32), and for models that run through `transformers`.
    """
    if checkpoint.config is None or not isinstance(model, Decoder) or model.dtype in (torch.float32, torch.float64):
        return {}
    exact = Decoder(checkpoint.config, checkpoint.tensors, torch.float32, model.device)
    _close(checkpoint)
    return {name: weight.detach() for name, weight in exact.named_parameters()}


def _close(checkpoint: Checkpoint) -> None:
    if isinstance(checkpoint.tensors, FolderTensors | GgufModel):
        checkpoint.tensors.close()
