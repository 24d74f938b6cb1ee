"""Where the problems of each rollout batch begin, so that each comes once an epoch however many a batch asks.

Batches are sampled in their order. One that asked further problems (`rounds.py`) moves the next ones on, and what its
completions scored may leave problems out of later epochs (`tasks.N.difficulty`). Both are facts of the run, which its
files of rollouts hold. A checkpoint holds where the batch begins that is trained on next, so a resumed run needs no
earlier file.
"""

from __future__ import annotations

import json
import threading
from collections import Counter, defaultdict
from pathlib import Path
from statistics import fmean

from rethink.kinds.grpo.recipe import Recipe
from rethink.store.run_folder import RunFolder
from rethink.tasks.mix import Measured, Position, TaskMix

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
        self._bounds = {
            name: task.difficulty for name, task in zip(mix.names, recipe.tasks, strict=True) if task.difficulty
        }
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
                position = self._mix.after(position, self._asked(position.batch), step, self._rates(position.batch))
                self._known[position.batch] = position
            trained = max(self._known) - self._recipe.rollout.lag - 1  # at least: no earlier batch is asked for again
            self._known = {batch: known for batch, known in self._known.items() if batch >= min(trained, index)}
            return position

    def _asked(self, index: int) -> int:
        """Problems that a batch asked."""
        rollout = self._recipe.rollout
        if rollout.dynamic_sampling is None:
            return rollout.prompts_per_batch
        return self._folder.count_rollouts(index) // rollout.group_size

    def _rates(self, index: int) -> dict[str, float]:
        """Pass rates of a batch's problems, by id, of the sources that choose by them."""
        scores: defaultdict[str, list[float]] = defaultdict(list)
        rows = self._folder.rollout_rows(index, ["problem_id", "task", "reward_parts"]) if self._bounds else ()
        for row in rows:
            bounds = self._bounds.get(row["task"])
            score = None if bounds is None else json.loads(row["reward_parts"])[bounds.reward]["score"]
            if score is not None:
                scores[row["problem_id"]].append(score)
        return {name: fmean(found) for name, found in scores.items()}

    def metrics(self, index: int) -> dict[str, float]:
        """Of the problems measured before a batch, how many have a pass rate below, within and above the bounds."""
        if not self._bounds:
            return {}
        found = Counter({"below": 0, "within": 0, "above": 0})
        for name, (rate, _) in self.before(index).measured.items():
            bounds = self._bounds[name.rpartition("/train/")[0]]
            found["below" if rate < bounds.low else "above" if rate > bounds.high else "within"] += 1
        return {f"problems/{side}": number for side, number in found.items()}

    def write(self, folder: Path, index: int) -> None:
        """Add to a checkpoint where a batch begins, unless that follows from its index alone."""
        if self._recipe.order_follows:
            position = self.before(index)
            found = {"batch": position.batch, "taken": position.taken, "measured": position.measured}
            (folder / FILE).write_text(json.dumps(found) + "\n")

    def read(self, folder: Path) -> None:
        """Take over what `write` has written."""
        if self._recipe.order_follows:
            found = json.loads((folder / FILE).read_text())
            measured = {name: Measured(*values) for name, values in found["measured"].items()}
            self._known = {found["batch"]: Position(found["batch"], tuple(found["taken"]), measured)}
