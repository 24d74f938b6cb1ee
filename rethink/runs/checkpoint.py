"""Recovery checkpoints: everything that the next step depends on, so that a resumed run is bit-identical.

    checkpoints/step-000010/
      optimizer.safetensors   fp32 masters, Adam moments, count of updates (the model's weights are cast from these);
                              of several trainer ranks optimizer-00001-of-00002.safetensors, …, a file of each;
                              of ranks that shard weights sharded-00001-of-00002.safetensors, …
      reference.safetensors   the reference model, where beta > 0
      critic.safetensors      the critic's weights, moments and count of updates, where there is a critic
      critic_advantages.safetensors  where a rollout batch is half used: advantages of its tokens, against that critic
      old_logprobs.safetensors  where a rollout batch is half used: its log-probabilities under the policy that sampled
      state.json              step, token counts, best evaluation
      checksums.json          the hash of each of these files, compared before any of them is read

Data order, samples and learning rate need no state: they are functions of the recipe's seed and of the step. Rollouts
of batches already sampled lie in the run's folder and are read back.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from rethink.errors import RunFolderError
from rethink.model.language_model import LanguageModel
from rethink.runs.optimizer import Optimizer
from rethink.store.atomic import remove_folder
from rethink.store.completeness import lost_parts
from rethink.store.integrity import check_index
from rethink.store.run_folder import RunFolder


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
    optimizer: Optimizer,
    reference: LanguageModel | None,
    old_logprobs: list[Tensor] | None,
) -> None:
    """Write all files of a checkpoint into an empty folder (the caller makes it appear atomically)."""
    optimizer.write(folder)
    if reference is not None:
        tensors = {name: p.detach().contiguous() for name, p in reference.named_parameters()}
        save_file(tensors, folder / "reference.safetensors")
    if old_logprobs is not None:
        save_file({f"{i:06d}": t.contiguous() for i, t in enumerate(old_logprobs)}, folder / "old_logprobs.safetensors")
    (folder / "state.json").write_text(json.dumps(asdict(state), indent=1) + "\n")


def restore(
    folder: RunFolder,
    optimizer: Optimizer,
    reference: LanguageModel | None,
    note: Callable[[str], None],
    check: Callable[[int], None] = lambda step: None,
    also: Callable[[Path, int], None] = lambda folder, step: None,
) -> tuple[TrainState, list[Tensor] | None]:
    """Bring a run back to its latest undamaged checkpoint; returns its state and old log-probabilities.

    Metrics rows of later steps and damaged checkpoints after it go, since their steps are done again.

    Args:
        folder: of the run, locked.
        optimizer: loaded in place, and its model with it.
        reference: loaded in place.
        note: told what is damaged, and from which step the run goes on.
        check: raises `RunFolderError` where a run cannot go on from the checkpoint of a step for another reason.
        also: reads what else a checkpoint of that step holds; what it raises means damage.

    Raises:
        RunFolderError: no checkpoint is undamaged.
    """
    damaged: list[tuple[Path, RunFolderError]] = []
    found: tuple[TrainState, list[Tensor] | None] = TrainState(), None
    for step, path in folder.checkpoints():
        try:
            check_index(path)
            check(step)
            found = read_checkpoint(path, optimizer, reference, also)
            break
        except RunFolderError as error:
            damaged.append((path, error))
    else:
        if damaged:
            raise RunFolderError(
                f"{damaged[0][1]} No other checkpoint of `{folder.path}` can be used, so the run cannot go on. Without "
                f"`{damaged[0][0].parent}`, --resume trains again from the first step; or start anew with another --out"
            )
    step = found[0].step
    for path, damage in damaged:
        note(f"{damage} The run goes on from step {step}: later steps are done again.")
        remove_folder(path)
    folder.drop_metrics_after(step)
    if step:
        for sentence in lost_parts(folder, step):
            note(sentence)
    if damaged:
        folder.drop_summary()  # it speaks of an end that is not reached any more
    return found


def read_checkpoint(
    folder: Path,
    optimizer: Optimizer,
    reference: LanguageModel | None,
    also: Callable[[Path, int], None] = lambda folder, step: None,
) -> tuple[TrainState, list[Tensor] | None]:
    """Load optimizer, model (through the optimizer) and reference in place; returns the state and old log-probs.

    Raises:
        RunFolderError: a file cannot be read, or is not of this run.
    """
    try:
        optimizer.read(folder)
        if reference is not None:
            saved = load_file(folder / "reference.safetensors")
            with torch.no_grad():
                for name, parameter in reference.named_parameters():
                    parameter.copy_(saved[name])
        old = None
        if (folder / "old_logprobs.safetensors").exists():
            old = [t.to(optimizer.device) for _, t in sorted(load_file(folder / "old_logprobs.safetensors").items())]
        state = TrainState(**json.loads((folder / "state.json").read_text()))
        also(folder, state.step)
        return state, old
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise RunFolderError(
            f"the checkpoint `{folder}` cannot be read ({type(error).__name__}: {error}): it is damaged, or of another "
            "model."
        ) from error
