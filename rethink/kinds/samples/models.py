"""The models that curation samples from, loaded when the first part asks for them, one at a time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from rethink.kinds.samples.recipe import CurateRecipe
from rethink.model.loading import Checkpoint, load_checkpoint
from rethink.rollout.engine import RolloutEngine
from rethink.rollout.engines import AUTO, EngineFactory, open_engine
from rethink.runs.choices import apply_choices
from rethink.types import SamplingParams


class Models:
    """Engines by the model's path.

    Args:
        recipe: its `model` and `sampling`.
        checkpoint: of `recipe.model`.
        choices: what `computing_choices` gave.
        engine_factory: replaces the built-in choice of engine, e.g. by a `ScriptedEngine` in tests.
    """

    def __init__(
        self,
        recipe: CurateRecipe,
        checkpoint: Checkpoint,
        choices: Mapping[str, Any],
        engine_factory: EngineFactory | None = None,
    ):
        self._recipe = recipe
        self._choices = choices
        self._factory = engine_factory
        self._checkpoints = {recipe.model.path: checkpoint}
        self._loaded: tuple[str, RolloutEngine] | None = None

    def checkpoint(self, path: str) -> Checkpoint:
        """Tokenizer and headers of a model; no weights are read.

        Raises:
            ModelError: it cannot be found or read.
        """
        if path not in self._checkpoints:
            self._checkpoints[path] = load_checkpoint(path)
        return self._checkpoints[path]

    def context(self, path: str) -> int:
        """Longest sequence of a model."""
        config = self.checkpoint(path).config
        return self.engine(path).context if config is None else config.max_position_embeddings

    def engine(self, path: str) -> RolloutEngine:
        """The engine of a model; another that was loaded is given up first."""
        if self._loaded is None or self._loaded[0] != path:
            self.close()
            self._loaded = (path, self._load(path))
        return self._loaded[1]

    def close(self) -> None:
        """Give up the engine that is loaded."""
        if self._loaded is not None:
            self._loaded[1].close()
            self._loaded = None

    def params(
        self, path: str, *, temperature: float, max_new_tokens: int, top_p: float = 1.0, top_k: int = 0,
        stop_strings: tuple[str, ...] = (),
    ) -> SamplingParams:  # fmt: skip
        """Sampling that ends at the model's end of turn."""
        ends = tuple(sorted(self.checkpoint(path).tokenizer.end_of_turn_ids))
        return SamplingParams(temperature, top_p, top_k, max_new_tokens, stop_strings, ends)

    def _load(self, path: str) -> RolloutEngine:
        checkpoint, sampling = self.checkpoint(path), self._recipe.sampling
        placement = apply_choices(self._choices)
        if sampling.kv_budget_gb:
            placement = replace(placement, kv_budget_bytes=int(sampling.kv_budget_gb * 2**30))
        # The tensors of a folder are closed once they are read: another load of it begins anew.
        self._checkpoints.pop(path, None)
        return open_engine(
            checkpoint,
            placement,
            engine=self._factory or AUTO,
            max_concurrent=sampling.max_concurrent,
            trust_remote_code=self._recipe.model.trust_remote_code and path == self._recipe.model.path,
        ).engine
