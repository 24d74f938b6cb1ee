"""`rethink eval`: measure models on benchmarks, and print the table."""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rethink.cli.arguments import Verbs, add_as_is, add_engine, print_json, real, verb, whole
from rethink.cli.cluster_option import add_cluster, placed_on
from rethink.errors import UsageError
from rethink.kinds.closing import program
from rethink.terminal import make_console, print_table, say

if TYPE_CHECKING:
    from rethink.eval.evaluate import Load, Measured, Request

EXAMPLES = """\
  rethink eval --model embedded --bench gsm8k --data gsm8k=gsm8k_test.jsonl --limit 64 --temperature 0
  rethink eval --model Qwen/Qwen2.5-0.5B-Instruct --bench math500,aime24 --k 4 --max-new-tokens 4096
  rethink eval --model runs/a/model,runs/b/model --bench gsm8k --out evals/a-and-b --published
  rethink eval --model runs/a/model --bench chain_sum                    a task of the run: asked as it was trained
  rethink eval --model embedded --bench chain_sum --prompting all        a reasoning-gym task, five kinds of prompt
  rethink eval --model Qwen/Qwen2.5-7B-Instruct --bench math500 --engine vllm
  rethink eval --model teacher --endpoint http://127.0.0.1:8000/v1 --bench ifeval
"""
WIDTH = 140
"""Columns of the table if the output is not a terminal."""
LINES_EVERY = 20.0
"""Seconds between progress lines if the output is not a terminal."""


def add_parser(verbs: Verbs) -> None:
    """Add the verb `eval`."""
    parser = verb(
        verbs, "eval", "measure models on benchmarks with the paper's protocol", EXAMPLES, run, when_interrupted
    )
    parser.add_argument(
        "--model",
        required=True,
        metavar="M[,M2…]",
        help="embedded, a hub id, a folder or a GGUF file; several with commas"[:64],
    )
    parser.add_argument(
        "--bench",
        required=True,
        metavar="B[,B2…]",
        help="benchmarks by name (docs/benchmarks.md), reasoning-gym tasks, or your own JSONL files",
    )
    parser.add_argument(
        "--data",
        action="append",
        default=[],
        metavar="BENCH=PATH",
        help="read a benchmark from a local JSONL file instead of the hub (may be repeated)",
    )
    parser.add_argument("--k", type=whole(1), help="samples per problem (default: the paper's)")
    parser.add_argument("--limit", type=whole(1), metavar="N", help="only the first N problems of each benchmark")
    parser.add_argument("--temperature", type=real(0), metavar="T", help="0 is greedy (default: 0.6)")
    parser.add_argument("--top-p", type=real(0, 1, open_low=True), metavar="P", help="nucleus (default: 0.95)")
    parser.add_argument(
        "--max-new-tokens",
        type=whole(1),
        metavar="N",
        help="token limit (default: 32,768, or what the model's context leaves)",
    )
    parser.add_argument(
        "--prompting",
        default="default",
        metavar="MODE",
        help="default, direct, few-shot, few-shot-cot, zero-shot-cot, r1, or all (compares the last five)",
    )
    parser.add_argument("--seed", type=whole(0), default=0, help="same seed, same samples (default: 0)")
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="folder (default: evals/<model>); samples already there are reused"
    )
    answers = parser.add_mutually_exclusive_group()
    add_engine(parser, answers)
    add_as_is(parser)
    answers.add_argument("--endpoint", metavar="URL", help="use the models of an OpenAI-compatible endpoint")
    add_cluster(answers)
    parser.add_argument("--published", action="store_true", help="add the paper's published numbers to the tables")
    parser.add_argument("--json", action="store_true", help="print one JSON object: the results by model and mode")


def run(args: argparse.Namespace) -> int:
    """Evaluate and print."""
    from rethink.eval.evaluate import evaluate_all

    load = loader(args.engine, args.endpoint, as_is=args.as_is)
    request = make_request(args)
    args.out = request.out

    def note(text: str) -> None:
        say(text, file=sys.stderr, flush=True)

    with Progress() as progress, placed_on(args.cluster, note):
        measured = evaluate_all(request, load, progress.seen, note)
    for one in measured:
        for name, number in one.judged_anew.items():
            if number:
                say(
                    f"{name}: {number} stored completions of {one.model} were graded again, because their gold answers "
                    "or the grader have changed",
                    file=sys.stderr,
                )
    if args.json:
        print_json({"folder": str(request.out), "results": by_model(measured)})
        write_tables(request, measured, args.published)
        return 0
    show(request, measured, args.published)
    return 0


def loader(engine: str, endpoint: str | None, *, as_is: bool = False) -> Load:
    """The function that loads a model into the engine. Raises `UsageError` if that engine is not available."""
    if endpoint is not None:
        from rethink.eval.endpoint_backend import EndpointBackend

        return lambda model, _: EndpointBackend(model, endpoint)
    from rethink.eval.backend import open_backend
    from rethink.rollout.engines import check_there

    check_there(engine)  # before data is read
    return lambda model, dtype: open_backend(model, dtype, engine, as_is=as_is)


def make_request(args: argparse.Namespace) -> Request:
    """The request that the arguments make."""
    from rethink.eval.benchmark_run import Overrides
    from rethink.eval.benchmarks.catalogue import find_benchmark
    from rethink.eval.benchmarks.own_task import own_benchmark
    from rethink.eval.benchmarks.prompting import modes_of
    from rethink.eval.evaluate import Request, slug_of

    models = _names(args.model, "--model")
    data = dict(_data(text) for text in args.data)
    own = not args.as_is and args.endpoint is None and args.prompting == "default"
    out = args.out
    if out is None:
        out = Path("evals") / "-".join(slug_of(model) for model in models)[:120]
    return Request(
        models=models,
        benchmarks=tuple(
            (own_benchmark(name, models) if own and name not in data else None) or find_benchmark(name)
            for name in _names(args.bench, "--bench")
        ),
        modes=modes_of(args.prompting),
        data=data,
        limit=args.limit,
        overrides=Overrides(args.k, args.temperature, args.top_p, args.max_new_tokens, args.seed),
        out=out,
    )


def _names(text: str, option: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    if not names:
        raise UsageError(f"{option} {text!r} names nothing; give at least one")
    return names


def _data(text: str) -> tuple[str, Path]:
    from rethink.eval.benchmarks.catalogue import find_benchmark

    name, mark, path = text.partition("=")
    if not mark or not name or not path:
        raise UsageError(f"--data {text!r} is not BENCH=PATH; for example --data gsm8k=gsm8k_test.jsonl")
    return find_benchmark(name).name, Path(path)


def when_interrupted(args: argparse.Namespace) -> str:
    """How to continue after Ctrl-C."""
    words = [*sys.argv[1:]]
    if args.out is not None and "--out" not in words:
        words += ["--out", str(args.out)]
    return f"The samples are kept. To continue: {program()} {shlex.join(words)}"


# --- printing --------------------------------------------------------------------------------------------------------


class Progress:
    """Progress on standard error: a bar on a terminal, else a line every `LINES_EVERY` seconds."""

    def __init__(self) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

        console = make_console(stderr=True)
        self._live = console.is_terminal
        self._bar = Bar(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=console,
            disable=not self._live,
        )
        self._tasks: dict[tuple[str, str, str], Any] = {}
        self._printed = time.monotonic()

    def __enter__(self) -> Progress:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def seen(self, model: str, mode: str, benchmark: str, done: int, total: int) -> None:
        """Show the progress of one benchmark."""
        key = (model, mode, benchmark)
        label = " ".join([model, benchmark, *([mode] if mode != "default" else [])])
        if key not in self._tasks:
            self._tasks[key] = self._bar.add_task(label, total=total)
        self._bar.update(self._tasks[key], completed=done)
        now = time.monotonic()
        if not self._live and (now - self._printed > LINES_EVERY or done == total):
            self._printed = now
            say(f"{label}: {done} of {total}", file=sys.stderr, flush=True)


def by_model(measured: Sequence[Measured]) -> dict[str, dict[str, dict[str, Any]]]:
    """Rows of `results.json` by model and mode."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for one in measured:
        found.setdefault(one.model, {})[one.mode] = {result.benchmark: result.row() for result in one.results}
    return found


def write_tables(request: Request, measured: Sequence[Measured], published: bool) -> list[Path]:
    """The tables of a request, below its folder."""
    from rethink.eval.tables.formats import write_table
    from rethink.eval.tables.paper import paper_tables, prompting_table

    details = _details(measured)
    if len(request.modes) > 1:
        tables = [prompting_table(details)]
    else:
        tables = list(paper_tables({model: of[request.modes[0]] for model, of in details.items()}, published))
    return [write_table(request.out / "tables", table)[0] for table in tables]


def _details(measured: Sequence[Measured]) -> dict[str, dict[str, Mapping[str, Mapping[str, Any]]]]:
    found: dict[str, dict[str, Mapping[str, Mapping[str, Any]]]] = {}
    for one in measured:
        found.setdefault(one.model, {})[one.mode] = {
            result.benchmark: result.row() | dict(result.details) for result in one.results
        }
    return found


def show(request: Request, measured: Sequence[Measured], published: bool) -> None:
    """Print the table of results, the protocol of each benchmark, and the paths of the files."""
    from rich.table import Table

    from rethink.eval.tables.card_section import how, percent

    several = len(request.modes) > 1
    table = Table("model", "benchmark", *(["prompting"] if several else []), "pass@1 (95 %)", "cons@k", "n", "k",
                  "truncated", "unparsed", "tokens", "tokens/s")  # fmt: skip
    protocol: dict[str, None] = {}
    for one in measured:
        for result in one.results:
            low, high = result.interval
            cons = "–" if result.cons_k is None else percent(result.cons_k)
            table.add_row(
                one.model,
                result.benchmark,
                *([one.mode] if several else []),
                f"{percent(result.pass_1)} ({percent(low)} – {percent(high)})",
                cons,
                str(result.n),
                str(result.k),
                percent(result.truncated),
                percent(result.details["unparsed"]),
                f"{result.length_mean:.0f}",
                f"{result.tokens_per_s:.0f}",
            )
            protocol.setdefault(f"{result.benchmark}: {how(result.row() | dict(result.details))}")
    print_table(table, WIDTH)
    say("\n".join(protocol))
    for path in write_tables(request, measured, published):
        say(f"\n{path.read_text(encoding='utf-8')}" if several else f"table    {path}")
    say(f"folder   {request.out}")
