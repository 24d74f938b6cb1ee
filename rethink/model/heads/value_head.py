"""A scalar head on the decoder: the score of a whole conversation, read at its last token, or values at all of them.

    prompt | response | end of turn ─► decoder ─► hidden state of the last token ─► score

A reward model on disk is the decoder's Hugging Face folder with two more files: `value_head.safetensors`
(`score.weight` [1, E], `score.bias` [1]) and `reward_model.json` (what it was trained for).

Axes: T packed tokens, C target tokens, S sequences, E hidden size.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Literal

import torch
from safetensors import SafetensorError
from torch import Tensor

from rethink.errors import ModelError
from rethink.model.build import DTYPES
from rethink.model.decoder.decoder import Decoder
from rethink.model.decoder.packing import PackedBatch, PackedGroup, pack
from rethink.model.files import read_json_object
from rethink.model.loading import Checkpoint, load_checkpoint
from rethink.model.safetensors_folder import FolderTensors
from rethink.model.saving import save_hf_folder
from rethink.store.atomic import sync_file, write_json

HEAD_FILE = "value_head.safetensors"
INFO_FILE = "reward_model.json"
FORMAT = 1
WEIGHT, BIAS = "score.weight", "score.bias"


@dataclass(frozen=True, slots=True)
class RewardModelInfo:
    """What a reward model was trained for; the content of `reward_model.json`."""

    objective: Literal["pairwise", "pointwise"] = "pairwise"
    """Pairs of responses (helpfulness), or single ones with a label (harmlessness)."""
    on: Literal["summary", "response"] = "summary"
    """What of a response is scored: what follows `</think>`, or all of it."""
    template: Literal["chat", "plain"] = "chat"
    """How a conversation becomes text; see `reward_text.py`."""
    offset: float = 0.0
    """Subtracted from the score before the sigmoid makes a probability of it: the mean score of held-out responses for
    pairs, whose scores have no zero of their own; 0 for labels."""
    synthetic: bool = False
    """Whether any pair it was trained on was made by a rule and not by people."""
    rules: tuple[str, ...] = ()
    """Names of the rules that made them."""
    recipe_hash: str = ""
    format: int = FORMAT


class RewardModel:
    """A decoder and a scalar head. Parameters are leaf tensors that require gradients.

    Args:
        decoder: used, not copied.
        weight_1E: [1, E] of the head; kept in fp32 or better, as the bias [1].
    """

    def __init__(self, decoder: Decoder, weight_1E: Tensor, bias_1: Tensor):
        self.decoder = decoder
        self.dtype, self.device = decoder.dtype, decoder.device
        self.weight, self.bias = (
            tensor.detach().to(decoder.device, decoder.accurate, copy=True).requires_grad_()
            for tensor in (weight_1E, bias_1)
        )

    @property
    def context(self) -> int:
        """Longest conversation in tokens."""
        return self.decoder.config.max_position_embeddings

    def named_parameters(self) -> Iterator[tuple[str, Tensor]]:
        """Parameters that the score depends on, in a fixed order: an untied output projection is none of them."""
        yield from ((name, p) for name, p in self.decoder.named_parameters() if name != "head")
        yield WEIGHT, self.weight
        yield BIAS, self.bias

    def scores(self, groups: Sequence[PackedGroup]) -> Tensor:
        """Scores [S] of the groups' responses, in order, differentiable; fp32 or better.

        Args:
            groups: each a prompt with the responses to it (which may be empty); the prompt is computed once.

        Raises:
            ModelError: a sequence is longer than the model's context.
        """
        batch = _with_last_tokens(groups, self.device)
        ends = torch.tensor(list(itertools.accumulate(batch.lengths)), device=self.device) - 1
        last_SE = self.decoder.hidden(batch).index_select(0, batch.head_rows_C[ends]).to(self.weight.dtype)
        scores: Tensor = (last_SE @ self.weight.t())[:, 0] + self.bias
        return scores

    def values(self, batch: PackedBatch) -> Tensor:
        """Values [C] of a critic: at each target, from what stands before it; differentiable, fp32 or better."""
        rows_CE = self.decoder.hidden(batch).index_select(0, batch.head_rows_C).to(self.weight.dtype)
        values: Tensor = (rows_CE @ self.weight.t())[:, 0] + self.bias
        return values

    def hf_tensors(self) -> dict[str, Tensor]:
        """The decoder's weights under Hugging Face names."""
        return self.decoder.hf_tensors()


def _with_last_tokens(groups: Sequence[PackedGroup], device: torch.device) -> PackedBatch:
    """The groups packed so that every response's last token is an input too.

    A packed row leaves a completion's last token out, since nothing is predicted from it; so one more token, which
    never becomes an input itself, is put behind each, and the row that would predict it is the one wanted.
    """
    return pack([PackedGroup(g.prompt_ids, [[*c, 0] for c in g.completions]) for g in groups], device)


def fresh_head(hidden_size: int, seed: int | None) -> tuple[Tensor, Tensor]:
    """Weight [1, E] and bias [1] to begin with: normal with variance 1 / (E + 1) and 0.

    Stiennon et al. (arXiv 2009.01325), appendix B.1. Without a seed all are 0, so that every score is.
    """
    if seed is None:
        return torch.zeros(1, hidden_size), torch.zeros(1)
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(1, hidden_size, generator=generator) / (hidden_size + 1) ** 0.5, torch.zeros(1)


def is_reward_model(folder: Path) -> bool:
    """Whether a folder holds a reward model."""
    return (folder / INFO_FILE).is_file()


def build_reward_model(checkpoint: Checkpoint, dtype: str, device: str, seed: int | None = 0) -> RewardModel:
    """The model of a checkpoint with its head, or with a fresh one where it is a language model (`seed`: see
    `fresh_head`).

    Raises:
        ModelError: the architecture is not the decoder's, or the head does not fit.
    """
    if checkpoint.config is None:
        raise ModelError(
            f"{checkpoint.source} cannot carry a value head: {checkpoint.reason}. Reward models need the decoder "
            "of Rethink: choose a model of the Llama, Qwen2, Qwen3 or Mistral architecture"
        )
    decoder = Decoder(checkpoint.config, checkpoint.tensors, DTYPES[dtype], device)
    if isinstance(checkpoint.tensors, FolderTensors):
        checkpoint.tensors.close()
    size = checkpoint.config.hidden_size
    head = _read_head(checkpoint.folder, size) if is_reward_model(checkpoint.folder) else fresh_head(size, seed)
    return RewardModel(decoder, *head)


def read_info(folder: Path) -> RewardModelInfo:
    """What `reward_model.json` says.

    Raises:
        ModelError: the folder is no reward model, or of a later version.
    """
    if not is_reward_model(folder):
        raise ModelError(
            f"`{folder}` is no reward model: it has no {INFO_FILE}. Train one with a recipe of the kind `reward-model` "
            "and give the folder `model` of its run"
        )
    values = read_json_object(folder / INFO_FILE)
    if values.get("format", 0) > FORMAT:
        raise ModelError(f"`{folder}` was written by a later version of Rethink; update Rethink")
    known = {field.name for field in fields(RewardModelInfo)}
    values = {key: value for key, value in values.items() if key in known}
    info = RewardModelInfo(**{**values, "rules": tuple(values.get("rules") or ())})
    allowed = (
        ("objective", ("pairwise", "pointwise")),
        ("on", ("summary", "response")),
        ("template", ("chat", "plain")),
    )
    for key, choices in allowed:
        if getattr(info, key) not in choices:
            raise ModelError(f"{folder / INFO_FILE}: `{key}` is {getattr(info, key)!r}, not one of {choices}")
    return info


def load_reward_checkpoint(path: str) -> tuple[Checkpoint, RewardModelInfo]:
    """Find a reward model and read its headers.

    Raises:
        ModelError: there is no such folder, or it holds no whole reward model.
    """
    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise ModelError(
            f"there is no reward model `{path}`: give the folder `model` of a run of the kind `reward-model` (with "
            f"{HEAD_FILE} and {INFO_FILE} in it)"
        )
    info = read_info(folder)
    checkpoint = load_checkpoint(path)
    if checkpoint.config is not None:
        _read_head(folder, checkpoint.config.hidden_size)
    return checkpoint, info


def save_reward_model(folder: Path, model: RewardModel, checkpoint: Checkpoint, info: RewardModelInfo) -> None:
    """Write decoder, head and description into `folder` (see the top of this file).

    Raises:
        StorageFailure: the disk is full or the folder cannot be written.
    """
    from safetensors.torch import save_file

    save_hf_folder(folder, model.hf_tensors(), checkpoint.hf_config, checkpoint.tokenizer)
    tensors = {WEIGHT: model.weight, BIAS: model.bias}
    save_file(
        {name: t.detach().to("cpu", torch.float32).contiguous() for name, t in tensors.items()}, folder / HEAD_FILE
    )
    (folder / HEAD_FILE).chmod(0o644)  # safetensors makes files that only their owner can read
    sync_file(folder / HEAD_FILE)
    write_json(folder / INFO_FILE, asdict(info))


def _read_head(folder: Path, hidden_size: int) -> tuple[Tensor, Tensor]:
    from safetensors.torch import load_file

    path = folder / HEAD_FILE
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise ModelError(
            f"the value head {path} cannot be read ({error}); copy the reward model's folder whole"
        ) from error
    for name, shape in ((WEIGHT, [1, hidden_size]), (BIAS, [1])):
        found = list(tensors[name].shape) if name in tensors else None
        if found != shape:
            raise ModelError(f"the value head {path} has {name} of shape {found}, but the decoder calls for {shape}")
    return tensors[WEIGHT].float(), tensors[BIAS].float()
