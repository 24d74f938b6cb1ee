"""How trainer ranks share the steps of fine-tuning: a lane of documents as arrays, and what is computed of it."""

from __future__ import annotations

import numpy as np
import torch

from rethink.kinds.sft.update import Lane, StepStats, accumulate_gradients, micro_batches
from rethink.machine.placement import Placement
from rethink.model.build import build_model
from rethink.model.language_model import LanguageModel
from rethink.model.loading import Checkpoint
from rethink.model.text.training_text import Document
from rethink.recipe.base import ModelRecipe
from rethink.runs.lanes import Arrays, Lanes, ragged, rows_of


def build(recipe: ModelRecipe, checkpoint: Checkpoint, placement: Placement) -> LanguageModel:
    """What is trained."""
    trust = recipe.model.trust_remote_code
    return build_model(checkpoint, placement.dtype, placement.device, trust_remote_code=trust)


def pack(lane: Lane) -> Arrays:
    """See `Lanes.pack`."""
    tokens = ragged("tokens", [document.token_ids for document in lane.documents])
    trained = ragged("trained", [document.trained for document in lane.documents])
    return {"counted": np.array(lane.counted, np.int64), **tokens, **trained}


def unpack(arrays: Arrays) -> Lane:
    """Inverse of `pack`."""
    documents, tokens = arrays["counted"].tolist()
    parts = zip(rows_of(arrays, "tokens"), rows_of(arrays, "trained"), strict=True)
    return Lane([Document(*part) for part in parts], (documents, tokens))


def pieces(lane: Lane, limit: int) -> list[int]:
    """See `Lanes.pieces`."""
    made = micro_batches(lane.documents, limit, torch.device("cpu"))
    return [sum(length > 0 for length in batch.lengths) for batch in made]


LANES = Lanes(build, accumulate_gradients, pack, unpack, StepStats, pieces)
