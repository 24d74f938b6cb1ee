"""Where the problems of each rollout batch begin, so that each comes once an epoch however many a batch asks.

Batches are sampled in their order. One that asked further problems (`rounds.py`) moves the next ones on: how many it
asked is a fact of the run, which its file of rollouts holds. A checkpoint holds where the batch begins that is trained
on next, so a resumed run needs no earlier file.
"""

from __future__ import annotations

import json
import threading
from pathlib import Path

from rethink.kinds.grpo.recipe import Recipe
from rethink.store.run_folder import RunFolder
from rethink.tasks.mix import Position, TaskMix

FILE = "problems.json"
"""In a checkpoint."""


class Positions:
    """See the module; threads may share it.

    Args:
        recipe: of the run.
        mix: its problems.
        folder: where batches are written.
    """

    def __init__(self, recipe: Recipe, mix: TaskMix, folder: RunFolder):
        self._recipe, self._mix, self._folder = recipe, mix, folder
        self._known = {0: mix.start}
        self._lock = threading.Lock()

    def before(self, index: int) -> Position:
        """Where the batch of that index begins; the batches before it are on disk.

        Raises:
            RunFolderError: one of them cannot be read.
        """
        with self._lock:
            position = self._known[max(batch for batch in self._known if batch <= index)]
            while position.batch < index:
                step = position.batch * self._recipe.steps_per_batch
                position = self._mix.after(position, self._asked(position.batch), step)
                self._known[position.batch] = position
            return position

    def _asked(self, index: int) -> int:
        """Problems that a batch asked."""
        rollout = self._recipe.rollout
        if rollout.dynamic_sampling is None:
            return rollout.prompts_per_batch
        return self._folder.count_rollouts(index) // rollout.group_size

    def write(self, folder: Path, index: int) -> None:
        """Add to a checkpoint where a batch begins, unless that follows from its index alone."""
        if self._recipe.rollout.dynamic_sampling is not None:
            position = self.before(index)
            (folder / FILE).write_text(json.dumps({"batch": position.batch, "taken": position.taken}) + "\n")

    def read(self, folder: Path) -> None:
        """Take over what `write` has written."""
        if self._recipe.rollout.dynamic_sampling is not None:
            found = json.loads((folder / FILE).read_text())
            self._known = {found["batch"]: Position(found["batch"], tuple(found["taken"]))}
