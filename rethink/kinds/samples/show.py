"""`rethink train` on a recipe of the kind `samples`: its plan, and what came of it."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rethink.cli.arguments import print_json, program
from rethink.terminal import say

if TYPE_CHECKING:
    from rethink.kinds.samples.recipe import CurateRecipe


def dry_run(recipe: CurateRecipe, *, as_json: bool) -> int:
    """Print the resolved recipe and how much it draws at most; nothing is drawn."""
    from rethink.recipe.identity import recipe_hash
    from rethink.recipe.loading import recipe_to_yaml

    sampling = recipe.sampling
    samples = 0 if recipe.source is not None else recipe.problems * sampling.per_problem
    plan = {"problems": recipe.problems, "samples": samples, "most_tokens": samples * sampling.max_new_tokens}
    if as_json:
        print_json({"recipe": recipe.model_dump(mode="json"), "recipe_hash": recipe_hash(recipe), "plan": plan})
        return 0
    say(recipe_to_yaml(recipe))
    say(f"# hash {recipe_hash(recipe)}\n")
    if recipe.source is not None:
        say(f"Reads the samples of {recipe.source}; none are drawn.")
    else:
        if recipe.endpoint.model is not None:
            say(f"Asks {recipe.endpoint.model} at {recipe.endpoint.url}.")
        say(
            f"Draws {sampling.per_problem} samples of each of at most {recipe.problems:,} problems: {samples:,} "
            f"samples of at most {sampling.max_new_tokens:,} tokens, {plan['most_tokens']:,} in all."
        )
    if recipe.teacher.model is not None:
        say(f"What is kept is rewritten by {recipe.teacher.model}, at most {recipe.teacher.max_tokens:,} tokens each.")
    return 0


def show(summary: Mapping[str, Any], out: Path) -> None:
    """What came of a curation: the tables, and where things lie."""
    say()
    say((out / "statistics.md").read_text(encoding="utf-8"))
    say(f"wall time {summary['wall_s'] / 60:.1f} min, peak memory {summary['peak_rss_mb'] / 1024:.1f} GiB\n")
    say(f"folder      {out}\nsamples     {out / 'samples.jsonl'}\ntrain       {out / 'train.jsonl'}")
    say(f"\nTrain on it: {program()} train sft {shlex.quote(f'data.0.path={out}/train.jsonl')}")
