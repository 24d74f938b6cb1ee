"""Rows of metrics, a checkpoint a step, a model at the end."""

import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

from rethink.model.loading import load_checkpoint
from rethink.observe.progress import Progress
from rethink.observe.report import write_report
from rethink.runs.session import at_work, open_run
from rethink.store.as_trained import as_trained
from toy_kind.recipe import ToyRecipe


def run(recipe: ToyRecipe, out: Path, *, resume: bool = False, progress: Progress) -> dict[str, Any]:
    """Copies the model. `TOY_DIES_AT` is the step at which the process kills itself, once."""
    checkpoint = load_checkpoint(recipe.model.path)
    folder = open_run(recipe, out, resume=resume, steps=recipe.steps, choices=dict)
    with at_work(folder, progress) as stop_requested:
        latest = folder.latest_checkpoint()
        step = latest[0] if latest else 0
        folder.drop_metrics_after(step)
        if not folder.metrics():
            folder.append_metrics({"step": 0})
        progress.start(recipe.steps, step)
        while step < recipe.steps and not stop_requested():
            step += 1
            row = {"step": step, "toy/loss": 1 / step, "time/step": 0.0}
            folder.append_metrics(row)
            if step == int(os.environ.get("TOY_DIES_AT", 0)) and not (out.parent / "died").exists():
                (out.parent / "died").touch()
                os.kill(os.getpid(), signal.SIGKILL)
                time.sleep(10)
            progress.step(row)
            folder.save_checkpoint(step, lambda path: (path / "state").write_bytes(b"x"), keep=recipe.checkpoint.keep)
        finished = step >= recipe.steps
        summary = {"recipe": recipe.name, "kind": recipe.kind, "finished": finished, "steps": step, "wall_s": 0.0}
        folder.write_summary(summary)
        if finished:
            record = as_trained(recipe, folder.recipe_hash)
            folder.export_model(lambda path: shutil.copytree(checkpoint.folder, path, dirs_exist_ok=True), record)
        write_report(folder)
        progress.close()
    return summary
