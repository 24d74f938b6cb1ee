"""The pictures of the README, drawn by the real code from the metrics of a real run.

    .venv/bin/python docs/pictures.py runs/quickstart [--step N]

writes docs/live-view.svg: the live view as it stood after step N of that run (default: two thirds of the way), and
docs/report.png: the top of the run's report, where a headless Chromium is installed.
"""

from __future__ import annotations

import argparse
import io
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console

from rethink.observe.live import LiveView
from rethink.observe.report import write_report
from rethink.recipe.recipe_files import parse_recipe
from rethink.store.run_folder import RunFolder

HERE = Path(__file__).resolve().parent
COLUMNS = 88
REPORT_SIZE = (1100, 1250)


def live_view(folder: RunFolder, step: int | None) -> str:
    """The live view as SVG: every row up to the step goes through the view, as the run sent it."""
    recipe = parse_recipe(folder.recipe_yaml, f"the recipe in {folder.path}")
    rows = folder.metrics()
    last = int(rows[-1]["step"])
    step = max(1, 2 * last // 3) if step is None else min(step, last)
    console = Console(record=True, width=COLUMNS, file=io.StringIO())
    view = LiveView(title=recipe.name, console=console)
    view.expect(recipe.steps)
    for row in rows:
        if row["step"] > step:
            break
        if "eval/accuracy" in row:
            view.evaluation(int(row["step"]), row)
        if row["step"]:
            view.step(row)
    view.phase("rollout")
    console.print(view.render())
    svg = console.export_svg(title="rethink train", clear=False)
    return re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL)  # they would be fetched from elsewhere


def report(folder: RunFolder, target: Path) -> bool:
    """The report's first screen as PNG; False without a browser."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        return False
    page = write_report(folder).resolve()
    with tempfile.TemporaryDirectory() as profile:
        subprocess.run(
            [
                *(browser, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"),
                *(f"--user-data-dir={profile}", f"--window-size={REPORT_SIZE[0]},{REPORT_SIZE[1]}"),
                *(f"--screenshot={target}", page.as_uri()),
            ],
            check=True,
            capture_output=True,
            timeout=180,
        )
    return True


def main() -> None:
    """Draw both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="RUN", help="a run's folder")
    parser.add_argument("--step", type=int, help="the moment shown")
    parser.add_argument("--out", type=Path, default=HERE, help="where the pictures go (default: docs/)")
    args = parser.parse_args()
    folder = RunFolder.open(args.folder)
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "live-view.svg").write_text(live_view(folder, args.step), encoding="utf-8")
    print(args.out / "live-view.svg")
    if report(folder, args.out / "report.png"):
        print(args.out / "report.png")
    else:
        print("no Chromium here: report.png is left as it was", file=sys.stderr)


if __name__ == "__main__":
    main()
