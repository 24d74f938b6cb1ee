"""`rethink report`: render a run's report from its folder."""

from __future__ import annotations

import argparse
import webbrowser
from pathlib import Path

from rethink.cli.arguments import Verbs, print_json, verb
from rethink.terminal import say

EXAMPLES = """\
  rethink report runs/quickstart
  rethink report runs/quickstart --open
  rethink report runs/quickstart --json
"""


def add_parser(verbs: Verbs) -> None:
    """Add the verb `report`."""
    parser = verb(verbs, "report", "render a run, finished or not, as one HTML file", EXAMPLES, run)
    parser.add_argument("folder", type=Path, metavar="DIR", help="the folder of a run or a pipeline")
    parser.add_argument("--open", action="store_true", help="open the report in the browser")
    parser.add_argument("--json", action="store_true", help="one JSON object: the report's path and the summary")


def run(args: argparse.Namespace) -> int:
    """Render the report, and print its path."""
    from rethink.store.pipeline_folder import PipelineFolder
    from rethink.store.run_folder import RunFolder

    if PipelineFolder.exists(args.folder):
        from rethink.observe.report.pipeline import write_pipeline_report

        pipeline = PipelineFolder.open(args.folder)
        path, summary = write_pipeline_report(pipeline), pipeline.read_results("summary")
    else:
        from rethink.observe.report import write_report

        folder = RunFolder.open(args.folder)
        path, summary = write_report(folder), folder.read_summary()
    if args.json:
        print_json({"report": str(path), "summary": summary})
    else:
        say(path)
    if args.open:
        webbrowser.open(path.resolve().as_uri())
    return 0
