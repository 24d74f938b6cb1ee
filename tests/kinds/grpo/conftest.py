"""A run that takes seconds: a tiny random model, a reward that random text sometimes earns."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rethink.kinds.grpo.run import train
from rethink.observe.progress import make_progress
from rethink.recipe.recipe_files import load_recipe

RECIPE = """\
name: tiny
steps: 8
threads: 1
model: {{path: {model}, dtype: float32}}
prompt: {{template: raw, instruction: "{{question}}"}}
tasks:
  - {{kind: reasoning-gym, name: chain_sum, params: {{min_terms: 2, max_terms: 2, min_digits: 1, max_digits: 1}}}}
rollout: {{prompts_per_batch: 4, group_size: 3, max_new_tokens: 6}}
reward:
  parts:
    - {{name: accuracy}}
    - {{name: letters, function: "rewards_for_tests:letters"}}
algorithm: {{beta: 0.02, mini_batches: 2, epochs: 2, reference_every: 3, aggregation: token}}
optimizer: {{learning_rate: 1.0e-3, warmup_steps: 2, schedule: cosine}}
evaluation: {{problems: 4, every: 3, every_problems: 2}}
checkpoint: {{every: 3}}
"""

REWARDS = '''\
def letters(problem, text):
    """Share of letters: varies from sample to sample, so groups have signal."""
    return sum(c.isalpha() for c in text) / max(len(text), 1)
'''


def write_recipe(folder: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A recipe on a tiny model, beside the module with its reward. It uses everything that carries state: a reference
    that is replaced, several updates a batch, a schedule, evaluations, a best model.
    """
    (folder / "rewards_for_tests.py").write_text(REWARDS)
    monkeypatch.syspath_prepend(str(folder))
    path = folder / "tiny.yaml"
    path.write_text(RECIPE.format(model=model))
    return path


@pytest.fixture
def recipe_file(tmp_path: Path, tiny_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    """See `write_recipe`."""
    return write_recipe(tmp_path, tiny_folder("llama"), monkeypatch)


@pytest.fixture
def run(recipe_file: Path) -> Callable[..., dict[str, Any]]:
    """`run(out, *overrides, resume=…, engine=…)` trains in this process and returns the summary."""

    def go(out: Path, *overrides: str, resume: bool = False, engine: Any = None) -> dict[str, Any]:
        recipe = load_recipe(recipe_file, overrides)
        return train(recipe, out, resume=resume, progress=make_progress("none"), engine_factory=engine)

    return go
