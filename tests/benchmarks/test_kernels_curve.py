"""Training on the same rollouts with the native kernels and with the torch references is the same training."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from rethink.kernels.native.library import native
from rethink.recipe.recipe_files import shipped_recipes

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.usefixtures("embedded")
@pytest.mark.timeout(600)
@pytest.mark.skipif(native() is None, reason="no native kernels here")
def test_quickstart_learns_the_same_from_the_same_rollouts(tmp_path: Path) -> None:
    recipe = yaml.safe_load(shipped_recipes()["quickstart"].read_text(encoding="utf-8"))
    recipe["evaluation"] = {"problems": 16, "every": None}
    (tmp_path / "short.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / "kernels_curve.py"), "--recipe", "short.yaml", "--steps", "4",
         "--runs", "1", "--json"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    line = json.loads(done.stdout.splitlines()[-1])
    native, reference = line["runs"]["ours"][0], line["runs"]["peer"][0]
    assert (native["kernels"], reference["kernels"]) == ("auto", "reference")
    assert native["accuracy_sampled"] == reference["accuracy_sampled"]  # the same rollouts
    assert reference["entropy"] == pytest.approx(native["entropy"], abs=0.02)
    assert reference["grad_norm"] == pytest.approx(native["grad_norm"], rel=0.05)
