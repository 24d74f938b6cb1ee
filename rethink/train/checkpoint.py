"""Recovery checkpoints: everything that the next step depends on, so that a resumed run is bit-identical.

    checkpoints/step-000010/
      optimizer.safetensors   fp32 masters, Adam moments, count of updates (the model's weights are cast from these)
      reference.safetensors   the reference model, where beta > 0
      old_logprobs.safetensors  where a rollout batch is half used: its log-probabilities under the policy that sampled
      state.json              step, token counts, best evaluation

Data order and samples need no state: they are functions of the seed and the batch index. Rollouts of batches already
sampled lie in the run's folder and are read back.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from rethink.model.language_model import LanguageModel
from rethink.train.optimizer import MasterAdamW


@dataclass(slots=True)
class TrainState:
    """Position of a run: changes with every step."""

    step: int = 0
    """Updates done."""
    tokens_total: int = 0
    """Completion tokens sampled so far."""
    tokens_trained: int = 0
    """Tokens (prompts once a group) that went through the training pass so far."""
    best_step: int | None = None
    best_accuracy: float = -1.0


def write_checkpoint(
    folder: Path,
    state: TrainState,
    optimizer: MasterAdamW,
    reference: LanguageModel | None,
    old_logprobs: list[Tensor] | None,
) -> None:
    """Write all files of a checkpoint into an empty folder (the caller makes it appear atomically)."""
    save_file({k: v.contiguous() for k, v in optimizer.state().items()}, folder / "optimizer.safetensors")
    if reference is not None:
        tensors = {name: p.detach().contiguous() for name, p in reference.named_parameters()}
        save_file(tensors, folder / "reference.safetensors")
    if old_logprobs is not None:
        save_file({f"{i:06d}": t.contiguous() for i, t in enumerate(old_logprobs)}, folder / "old_logprobs.safetensors")
    (folder / "state.json").write_text(json.dumps(asdict(state), indent=1) + "\n")


def read_checkpoint(
    folder: Path, optimizer: MasterAdamW, reference: LanguageModel | None
) -> tuple[TrainState, list[Tensor] | None]:
    """Load optimizer, model (through the optimizer) and reference in place; returns the state and old log-probs."""
    optimizer.load(load_file(folder / "optimizer.safetensors"))
    if reference is not None:
        saved = load_file(folder / "reference.safetensors")
        with torch.no_grad():
            for name, parameter in reference.named_parameters():
                parameter.copy_(saved[name])
    old = None
    if (folder / "old_logprobs.safetensors").exists():
        device = next(iter(optimizer.gradients().values())).device
        old = [t.to(device) for _, t in sorted(load_file(folder / "old_logprobs.safetensors").items())]
    return TrainState(**json.loads((folder / "state.json").read_text())), old
