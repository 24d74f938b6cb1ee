"""The engine that fits a model."""

from __future__ import annotations

from rethink.model.decoder import Decoder
from rethink.model.language_model import LanguageModel
from rethink.model.tokenizer import Tokenizer
from rethink.rollout.engine import RolloutEngine
from rethink.rollout.torch_engine import TorchEngine


def build_engine(
    model: LanguageModel, tokenizer: Tokenizer, *, kv_budget_bytes: int, max_concurrent: int | None = None
) -> RolloutEngine:
    """The embedded engine for our decoder; the slower one on `transformers` for anything else."""
    if isinstance(model, Decoder):
        return TorchEngine(model, tokenizer.decode, kv_budget_bytes=kv_budget_bytes, max_concurrent=max_concurrent)
    from rethink.model.transformers_model import TransformersModel
    from rethink.rollout.transformers_engine import TransformersEngine

    assert isinstance(model, TransformersModel)
    return TransformersEngine(model, tokenizer.decode, max_concurrent=max_concurrent)
