"""The command `rethink`: runs the verb and turns an error into one paragraph and an exit code.

Exit codes: 0 done; 1 a run failed; 2 the request cannot be carried out as given; 130 interrupted.
Nothing heavy is imported before a verb runs, so `rethink --help` is fast.
"""

from __future__ import annotations

import argparse
import difflib
import os
import re
import sys
from collections.abc import Collection, Sequence
from typing import NoReturn

import rethink
from rethink.cli import (
    algorithms,
    chat,
    check,
    clean,
    cluster,
    compare,
    doctor,
    eval,
    export,
    gpu_check,
    profile,
    report,
    runs,
    sample,
    score,
    serve,
    status,
    tasks,
    train,
)
from rethink.errors import RethinkError
from rethink.terminal import guard_process, say, visible

EXAMPLES = """\
examples:
  rethink doctor                                        show what this machine can do
  rethink train quickstart                              train the embedded model on a small task
  rethink train my.yaml rollout.group_size=16 --dry-run check a recipe before running it
  rethink tasks chain_sum --show 3                      show problems as the model will see them
  rethink algorithms                                    list the objectives to train with
  rethink check my.yaml                                 test in a minute or two whether it can work
  rethink train my.yaml --resume                        resume a run that stopped
  rethink train r1                                      run the whole pipeline of DeepSeek-R1
  rethink runs                                          list the runs, with state and results
  rethink status runs/r1                                show the progress of its stages
  rethink sample --model runs/quickstart/model "Calculate 1 + 2 + 3."
  rethink chat --model runs/quickstart                  talk with the trained model
  rethink eval --model runs/quickstart/model --bench gsm8k --limit 100
  rethink compare evals/before evals/after              show where two evaluations, or several runs, differ
  rethink export runs/quickstart --to gguf --out quickstart.gguf
  rethink score --reward math --data answers.jsonl --out scored.jsonl
  rethink report runs/quickstart --open
  rethink serve --model runs/quickstart/model           serve it through an OpenAI-compatible API
  rethink cluster plan my.yaml local:4                  show who would run where, and what is missing
  rethink gpu-check                                     compare a GPU with the CPU
  rethink profile my.yaml                               show where a step's time and memory go
"""

INTERRUPTED = 130
BROKEN_PIPE = 141


class Parser(argparse.ArgumentParser):
    """`argparse.ArgumentParser` with control characters in its messages made visible."""

    verbs: Collection[str] = ()
    """Names of the commands."""

    def exit(self, status: int = 0, message: str | None = None) -> NoReturn:
        """See `argparse.ArgumentParser`."""
        super().exit(status, None if message is None else visible(message))


def build_parser() -> Parser:
    """The parser with all verbs."""
    parser = Parser(
        prog="rethink",
        description="Train language models to reason, the way DeepSeek-R1 was trained, on the machine you have.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"rethink {rethink.__version__}")
    verbs = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for verb in (
        train, runs, status, clean, tasks, algorithms, check, sample, chat, serve, score, eval, compare, export, report,
        cluster, profile, doctor, gpu_check,
    ):  # fmt: skip
        verb.add_parser(verbs)
    parser.verbs = tuple(verbs.choices)
    return parser


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse arguments; `key=value` may come before or after options, which argparse alone does not accept."""
    parser, words = build_parser(), list(sys.argv[1:] if argv is None else argv)
    if not words:
        parser.print_help()
        parser.exit()
    if not words[0].startswith("-") and words[0] not in parser.verbs:
        near = difflib.get_close_matches(words[0], parser.verbs, n=1)
        meant = f"did you mean `{near[0]}`? " if near else ""
        parser.error(f"there is no command {words[0]!r}; {meant}`rethink --help` lists them")
    args, rest = parser.parse_known_args(words)
    strange = [word for word in rest if word.startswith("-") or not hasattr(args, "overrides")]
    if strange:
        hint = _as_override(strange[0], words) if hasattr(args, "overrides") else ""
        parser.error(f"unrecognized arguments: {' '.join(strange)}{hint}")
    if rest:
        args.overrides = [*args.overrides, *rest]
    return args


def _as_override(option: str, words: Sequence[str]) -> str:
    """How a value of the recipe that was given as an option is written; nothing where it looks like none."""
    key, given, value = option.removeprefix("--").partition("=")
    if not option.startswith("--") or not re.fullmatch(r"[A-Za-z][\w.-]*", key):
        return ""
    if not given:
        following = words[words.index(option) + 1 :] if option in words else []
        value = following[0] if following and not following[0].startswith("-") else "VALUE"
    return f". Values of the recipe have no dashes: {key.replace('-', '_')}={value}"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    guard_process()
    args = parse(argv)
    try:
        code: int = args.run(args)
        sys.stdout.flush()
        return code
    except RethinkError as error:
        say(f"rethink: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        say(f"\nInterrupted. {args.when_interrupted(args)}".rstrip(), file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of our output (head, less) has exited; Python must not write to it again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE


if __name__ == "__main__":
    sys.exit(main())
