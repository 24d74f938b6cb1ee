"""`rethink clean`: remove what a pipeline no longer needs."""

from __future__ import annotations

import argparse
from pathlib import Path

from rethink.cli.arguments import Verbs, print_json, verb
from rethink.terminal import say

EXAMPLES = """\
  rethink clean runs/r1 --dry-run       show what would be removed, and how much space that frees
  rethink clean runs/r1                 remove stages that the last recipe no longer has, and checkpoints of done stages
"""


def add_parser(verbs: Verbs) -> None:
    """Add the verb `clean`."""
    parser = verb(verbs, "clean", "remove what a pipeline no longer needs", EXAMPLES, run)
    parser.add_argument("folder", type=Path, metavar="DIR", help="the folder of the pipeline")
    parser.add_argument("--dry-run", action="store_true", help="only show what would be removed")
    parser.add_argument("--json", action="store_true", help="one JSON object")


def run(args: argparse.Namespace) -> int:
    """Remove, and print what was removed and how much space that freed."""
    from rethink.kinds.pipeline.disk import clean, cleanings
    from rethink.plan.estimate_text import size_text
    from rethink.store.pipeline_folder import PipelineFolder, disk_bytes

    folder = PipelineFolder.open(args.folder)
    before = disk_bytes(folder.path)
    if args.dry_run:
        found = cleanings(folder)
        after = before - sum(item.size for item in found)
    else:
        with folder.lock():
            found = clean(folder)
        after = disk_bytes(folder.path)
    if args.json:
        print_json(
            {
                "removed": [
                    {"path": str(item.path), "reason": item.reason, "bytes": item.size} for item in found
                ],
                "dry_run": args.dry_run,
                "bytes_before": before,
                "bytes_after": after,
            }
        )  # fmt: skip
        return 0
    for item in found:
        say(f"{size_text(item.size):>10}  {item.path}  ({item.reason})")
    if args.dry_run:
        say(f"{len(found)} to remove: the folder takes {size_text(before)} and would take {size_text(after)}")
    else:
        say(f"{len(found)} removed: the folder took {size_text(before)} and takes {size_text(after)}")
    return 0
