"""Rollout batches in their order, each sampled by the policy that the lag says (`lag.py`).

    trained on batch n - 1 ─► its weights ─► batch n + lag: plan, sample, score, write ─► taken, when its turn comes

Where the engine samples elsewhere (`overlaps`), a thread does that while the run trains. Otherwise it is done before
the run trains on batch n, so that no weights need to be kept.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch

from rethink.errors import EngineFailure
from rethink.kinds.grpo.collect import RolloutBatch, Sources, collect
from rethink.kinds.grpo.lag import batches_due, policies_needed, sampled_by
from rethink.kinds.grpo.positions import Positions
from rethink.kinds.grpo.recipe import Recipe
from rethink.kinds.grpo.versions import Weights, copy_of, lent
from rethink.model.language_model import LanguageModel
from rethink.store.run_folder import RunFolder

END_SECONDS = 30.0
"""How long the thread may take to end once its engine is closed: rewards that it waits for."""


class Feed:
    """See the module. A version is the number of updates that made it, and `step` the number done so far.

    Args:
        recipe: of the run.
        sources: what batches are made of.
        folder: where they are written.
        model: the policy, which is trained.
    """

    def __init__(self, recipe: Recipe, sources: Sources, folder: RunFolder, model: LanguageModel):
        self.kept: dict[int, Weights] = {}
        """Versions that are still to sample, and that training has changed, or may change."""
        self.positions = Positions(recipe, sources.mix, folder)
        """Where the problems of each batch begin."""
        self._recipe, self._sources, self._folder, self._model = recipe, sources, folder, model
        self._lag, self._batches = recipe.rollout.lag, -(-recipe.steps // recipe.steps_per_batch)
        self._ahead = self._lag > 0 and sources.engine.overlaps
        self._trained = 0
        """Batches that were trained on."""
        self._read: set[int] = set()
        """Batches that an earlier process has sampled."""
        self._ready: dict[int, RolloutBatch] = {}
        self._changed = threading.Condition()
        self._sampling = threading.Lock()
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None
        self._closing = False

    def version(self, batch: int) -> int:
        """The version that samples a batch."""
        return sampled_by(batch, self._lag) * self._recipe.steps_per_batch

    def advance(self, step: int) -> None:
        """So many updates are done, and the policy is published: batches that are due now are sampled meanwhile."""
        if not self._ahead:
            return
        with self._changed:
            self._trained = step // self._recipe.steps_per_batch
            self._keep(step)
            self._sources.engine.retain(self.kept)
            self._changed.notify_all()
        if self._thread is None:
            self._read = set(self._folder.batches())
            self._thread = threading.Thread(
                target=self._sample_ahead, args=(torch.get_num_threads(),), name="rollouts", daemon=True
            )
            self._thread.start()

    def take(self, index: int, step: int) -> tuple[RolloutBatch, float]:
        """A batch to train on, and for how many seconds it was waited for.

        Raises:
            EngineFailure: another policy sampled it than the lag says.
            RunFailure: it cannot be sampled or scored.
        """
        started = time.perf_counter()
        batch = self._wait(index, step) if self._ahead else self._sample_due(index, step)
        allowed: set[int | None] = {self.version(index)} if self._lag else {self.version(index), None}
        if not batch.versions <= allowed:
            raise EngineFailure(
                f"rollout batch {index} was sampled by version {batch.versions} of the policy, and must be by version "
                f"{self.version(index)}, so it was not trained on. This is a bug; please report it. To go on, remove "
                f"`{self._folder.rollouts_path(index)}` and give --resume"
            )
        return batch, time.perf_counter() - started

    def needed(self, step: int) -> dict[int, Weights]:
        """The versions, beside the present one, that a checkpoint must hold so that nothing has to be drained."""
        return {version: self.kept[version] for version in sorted(self._wanted(step) - {step})}

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Within, nothing else is sampled or scored; waits for the batch that is under way."""
        with self._sampling:
            yield

    def close(self) -> None:
        """End the sampling, the engine and the reward workers."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._sources.engine.close()
        if self._thread is not None:
            self._thread.join(END_SECONDS)
        self._sources.rubric.close()
        if self._thread is not None:
            self._thread.join(END_SECONDS)

    def _wanted(self, step: int) -> set[int]:
        """Versions of the due batches that are not on disk."""
        per_batch = self._recipe.steps_per_batch
        needed = policies_needed(step // per_batch, self._lag, self._folder.batches())
        return {trained * per_batch for trained in needed}

    def _keep(self, step: int) -> None:
        """Keep the present version if it is still to sample, and no other one that is not."""
        wanted = self._wanted(step)
        if step in wanted and step not in self.kept:
            self.kept[step] = copy_of(self._model)
        self.kept = {version: weights for version, weights in self.kept.items() if version in wanted}

    def _collect(self, index: int) -> RolloutBatch:
        return collect(self._recipe, self._sources, self._folder, self.positions, index)

    # Before training goes on

    def _sample_due(self, index: int, step: int) -> RolloutBatch:
        there = self._folder.batches()
        for batch in batches_due(index, self._lag):
            if batch < self._batches and batch not in there:
                version = self.version(batch)
                earlier = version != step
                with lent(self.kept[version], version, self._sources.engine, self._model) if earlier else nullcontext():
                    self._ready[batch] = self._collect(batch)
        self._keep(step)  # what a longer run would sample
        return self._ready.pop(index, None) or self._collect(index)

    # While training goes on

    def _wait(self, index: int, step: int) -> RolloutBatch:
        self.advance(step)
        if index in self._read:
            return self._collect(index)
        with self._changed:
            self._changed.wait_for(lambda: index in self._ready or self._failure is not None)
            if index in self._ready:
                return self._ready.pop(index)
            assert self._failure is not None
            raise self._failure

    def _sample_ahead(self, threads: int) -> None:
        torch.set_num_threads(threads)  # those of this thread: sums of reward models depend on it
        try:
            while (index := self._next()) is not None:
                with self._sampling:
                    batch = self._collect(index)
                with self._changed:
                    self._ready[index] = batch
                    self._changed.notify_all()
        except BaseException as error:
            with self._changed:
                self._failure = error
                self._changed.notify_all()

    def _next(self) -> int | None:
        """The next batch to sample, once it is due; None: the run ends."""

        def due() -> list[int]:
            there = self._folder.batches()
            return [b for b in batches_due(self._trained, self._lag) if b < self._batches and b not in there]

        with self._changed:
            self._changed.wait_for(lambda: self._closing or due())
            return None if self._closing else due()[0]
