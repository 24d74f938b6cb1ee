"""Shared by all verbs: sub-parsers with examples, and number types whose errors name the allowed values."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Mapping
from typing import Any

from rethink.terminal import json_text, say

Verbs = Any  # argparse's sub-parsers action has no public name
Run = Callable[[argparse.Namespace], int]
Hint = Callable[[argparse.Namespace], str]


def nothing_to_resume(_: argparse.Namespace) -> str:
    """The hint after Ctrl-C for a verb that keeps no state."""
    return ""


def verb(
    verbs: Verbs,
    name: str,
    summary: str,
    examples: str,
    run: Run,
    when_interrupted: Hint = nothing_to_resume,
) -> argparse.ArgumentParser:
    """Add a verb: `run` executes it, `when_interrupted` returns the hint that is printed after Ctrl-C."""
    parser: argparse.ArgumentParser = verbs.add_parser(
        name,
        help=summary,
        description=summary[0].upper() + summary[1:] + ".",
        epilog="examples:\n" + examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run, when_interrupted=when_interrupted)
    return parser


def whole(low: int) -> Callable[[str], int]:
    """An argument type: an integer of at least `low`."""

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = low - 1
        if value < low:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least {low}")
        return value

    return parse


def real(low: float, high: float = math.inf, *, open_low: bool = False) -> Callable[[str], float]:
    """An argument type: a finite number from `low` (left out if `open_low`) to `high`."""
    above = f"above {low:g}" if open_low else f"of at least {low:g}"
    allowed = above if math.isinf(high) else f"{above} and at most {high:g}"

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not math.isfinite(value) or not low <= value <= high or (open_low and value == low):
            raise argparse.ArgumentTypeError(f"{text!r} is not a number {allowed}")
        return value

    return parse


class _Renamed(argparse.Action):
    """An option of before: refused, with its new name."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        new = self.const
        parser.error(f"{self.option_strings[0]} is called {new} now: write {new} auto, or {new} vllm")


def add_engine(parser: argparse.ArgumentParser, beside: Any = None) -> None:
    """Add `--engine`.

    Args:
        beside: a group of options of which only one may be given.
    """
    (beside or parser).add_argument(
        "--engine",
        default="auto",
        metavar="E",
        help="the engine: auto, torch, transformers, vllm, or one of an installed package (default: auto)",
    )
    parser.add_argument("--backend", action=_Renamed, const="--engine", help=argparse.SUPPRESS)


def add_as_is(parser: argparse.ArgumentParser) -> None:
    """Add `--as-is`."""
    parser.add_argument(
        "--as-is",
        action="store_true",
        help="ignore how the model was trained (the rethink.json of its folder): no prompt of its run",
    )


def print_json(value: Mapping[str, Any]) -> None:
    """Print one object as one line, for programs."""
    say(json_text(value))
