"""`rethink export`: a model as a Hugging Face folder with its card, or as one GGUF file."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from rethink.cli.arguments import Verbs, add_as_is, print_json, verb
from rethink.terminal import make_console, say

EXAMPLES = """\
  rethink export runs/quickstart --out quickstart-hf                       folder with model card, ready for the hub
  rethink export runs/quickstart --to gguf --out quickstart-f16.gguf       for llama.cpp and tools built on it
  rethink export runs/a/best --to gguf --dtype q8_0 --out a-q8_0.gguf      half the size of f16
  rethink export runs/a --evaluation evals/a --out a-hf                    the card has the tables of `rethink eval`
  rethink export model-q4_k_m.gguf --dtype bf16 --out model-hf             from a GGUF file
"""


def add_parser(verbs: Verbs) -> None:
    """Add the verb `export`."""
    parser = verb(verbs, "export", "export a model as a Hugging Face folder or a GGUF file", EXAMPLES, run)
    parser.add_argument("source", metavar="SOURCE", help="a run folder, embedded, a hub id, a folder or a GGUF file")
    parser.add_argument("--to", choices=("hf", "gguf"), default="hf", help="what to write (default: hf)")
    parser.add_argument(
        "--dtype", choices=("f16", "bf16", "q8_0"), help="type of the weights (default: f16 in GGUF, else as stored)"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="PATH", help="folder or file; must not exist yet")
    parser.add_argument(
        "--evaluation", type=Path, metavar="DIR", help="folder of `rethink eval --out` whose results go into the card"
    )
    add_as_is(parser)
    parser.add_argument("--json", action="store_true", help="one JSON object: path, sizes in bytes, notes")


def run(args: argparse.Namespace) -> int:
    """Export, and print what was written."""
    from rethink.export.exporting import check_request, export_model

    check_request(args.out, args.to, args.dtype, args.evaluation)  # before anything heavy is imported
    with Progress() as progress:
        done = export_model(
            args.source,
            args.out,
            target=args.to,
            dtype=args.dtype,
            evaluation=args.evaluation,
            as_is=args.as_is,
            on_progress=progress.seen,
        )
    if args.json:
        print_json(
            {
                "path": str(done.path),
                "to": done.target,
                "dtype": done.dtype,
                "bytes": done.nbytes,
                "source_bytes": done.source_bytes,
                "files": list(done.files),
                "notes": list(done.notes),
            }
        )
        return 0
    kind = "GGUF file" if done.target == "gguf" else "Hugging Face folder"
    say(f"{done.path}: {kind}, {done.dtype}, {megabytes(done.nbytes)} (the source: {megabytes(done.source_bytes)})")
    for note in done.notes:
        say(f"  note: {note}")
    say(f"Try it: rethink chat --model {done.path}")
    return 0


def megabytes(nbytes: int) -> str:
    """A size for people."""
    return f"{nbytes / 1e9:.2f} GB" if nbytes >= 1e9 else f"{nbytes / 1e6:.1f} MB"


class Progress:
    """A progress bar on standard error if that is a terminal; else nothing."""

    def __init__(self) -> None:
        from rich.progress import BarColumn, DownloadColumn, TextColumn
        from rich.progress import Progress as Bar

        console = make_console(file=sys.stderr)
        self._bar = Bar(
            TextColumn("writing"), BarColumn(), DownloadColumn(), console=console, disable=not console.is_terminal
        )
        self._task: Any = None

    def __enter__(self) -> Progress:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def seen(self, done: int, total: int) -> None:
        """Show the progress in bytes."""
        if self._task is None:
            self._task = self._bar.add_task("", total=total)
        self._bar.update(self._task, completed=done)
