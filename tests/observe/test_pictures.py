"""The script that draws the README's pictures."""

from __future__ import annotations

import importlib.util
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

from rethink.store.run_folder import RunFolder
from tests.paths import ROOT


def test_the_live_view_is_drawn_as_it_stood_and_needs_nothing_from_elsewhere(tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("pictures", ROOT / "docs" / "pictures.py")
    assert spec is not None
    assert spec.loader is not None
    pictures = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(pictures)
    recipe = "name: sums\nsteps: 9\ntasks: [{kind: reasoning-gym, name: chain_sum}]\n"
    folder = RunFolder.create(tmp_path / "run", recipe_yaml=recipe, recipe_hash="h", environment={}, choices={})
    folder.append_metrics({"step": 0, "eval/accuracy": 0.25, "eval/format": 0.5})
    for step in range(1, 7):
        folder.append_metrics({"step": step, "reward/mean": step / 8, "time/step": 10.0})
    svg = pictures.live_view(folder, 4)
    shown = "".join(ElementTree.fromstring(svg).itertext()).replace("\xa0", " ")
    assert re.search(r"step\s*4\s*of 9", shown)
    assert "0.500" in shown  # the reward of step 4
    assert "0.625" not in shown  # and not of step 5
    assert "25.0 %" in shown
    assert "about 50 s left" in shown
    assert not re.search(r"url\(.?https?:", svg)
