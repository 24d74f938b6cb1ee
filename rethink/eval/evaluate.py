"""`rethink eval`: models × ways to ask × benchmarks, into one folder.

One model asked one way fills the folder itself; several models, or several ways, get a folder each below it:

    DIR/evaluation.json   what was evaluated, so that the same command resumes
    DIR/results.json      one key a benchmark
    DIR/details.json      the same benchmarks with everything else that is known
    DIR/samples/BENCH/    every completion with its verdict (Parquet)
    DIR/model-card.md     a section for a model card
    DIR/tables/           the paper's tables: Markdown, LaTeX, CSV, HTML
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rethink.errors import RunFolderError, UsageError
from rethink.eval.backend import Backend
from rethink.eval.benchmark import Benchmark
from rethink.eval.benchmark_run import Overrides, Plan, judge_anew, make_plan, run_plan
from rethink.eval.benchmarks.problems import load_problems, source_name
from rethink.eval.benchmarks.prompting import Mode, prompt_section
from rethink.eval.results import BenchmarkResult, summarise
from rethink.eval.sample_files import SampleStore
from rethink.eval.tables.card_section import card_section
from rethink.rollout.engines import AUTOMATIC
from rethink.store.atomic import clean_leftovers, storage_errors, write_json, write_text
from rethink.store.integrity import json_digest, read_sealed, write_sealed
from rethink.store.lock import only_writer
from rethink.tasks.guesses import guess_warning
from rethink.types import Problem

FORMAT = 1
RECORD = "evaluation.json"
EARLIER = "embedded"
"""What earlier versions called the engines of `AUTOMATIC` in a record."""
_CHANGES = ("temperature", "top_p", "max_new_tokens", "seed", "prompt", "prompting", "benchmark")
OnProgress = Callable[[str, str, str, int, int], None]
"""(model, mode, benchmark, completions there are, completions wanted)."""
Load = Callable[[str, str | None], Backend]
"""(model, recorded dtype or None) -> backend."""


@dataclass(frozen=True, slots=True)
class Request:
    """What the user asks for."""

    models: tuple[str, ...]
    benchmarks: tuple[Benchmark, ...]
    modes: tuple[Mode, ...]
    data: Mapping[str, Path]
    """Local files in place of the hub's, by benchmark."""
    limit: int | None
    overrides: Overrides
    out: Path


@dataclass(frozen=True, slots=True)
class Measured:
    """One model asked one way."""

    model: str
    mode: Mode
    folder: Path
    results: tuple[BenchmarkResult, ...]
    plans: tuple[Plan, ...]
    judged_anew: Mapping[str, int]
    """By benchmark: stored completions whose gold answer or grader had changed since."""


def check_request(request: Request) -> dict[str, list[Problem]]:
    """Everything that can be refused before a model is loaded; returns the problems of each benchmark.

    Raises:
        UsageError: a benchmark cannot be judged or asked as wanted, data is missing or has the wrong schema, or
            `--data` names a benchmark that is not evaluated.
    """
    names = [benchmark.name for benchmark in request.benchmarks]
    if len(set(names)) < len(names):
        raise UsageError(f"--bench names a benchmark twice: {', '.join(names)}; name each once")
    strange = sorted(set(request.data) - set(names))
    if strange:
        raise UsageError(
            f"--data gives a file for {', '.join(strange)}, which --bench does not name; it names {', '.join(names)}"
        )
    for benchmark in request.benchmarks:
        if benchmark.grader.check is not None:
            benchmark.grader.check()
        if not _askable(benchmark, request.modes):
            prompt_section(benchmark, request.modes[0])  # raises, with the reason
    return {b.name: load_problems(b, request.data.get(b.name), request.limit) for b in request.benchmarks}


def _askable(benchmark: Benchmark, modes: Sequence[Mode]) -> list[Mode]:
    """The modes among these that the benchmark has: a comparison leaves out the others."""
    found = []
    for mode in modes:
        try:
            prompt_section(benchmark, mode)
        except UsageError:
            continue
        found.append(mode)
    return found


def evaluate_all(
    request: Request, load: Load, on_progress: OnProgress | None = None, note: Callable[[str], None] = lambda _: None
) -> list[Measured]:
    """Evaluate every model in every prompting mode and write the results; `note` receives messages for the user.

    Raises:
        UsageError: see `check_request`, `make_plan`; or the folder holds something else.
        RunFailure: generation failed; the samples are kept, and the same request resumes.
    """
    problems = check_request(request)
    for name, asked in problems.items():
        if warning := guess_warning(asked):
            note(f"warning: {name}: {warning}")
    measured = []
    for model in request.models:
        folders = {mode: folder_of(request, model, mode) for mode in request.modes}
        recorded = [read_record(folder) for folder in folders.values() if (folder / RECORD).is_file()]
        backend = load(model, next((str(r["backend"]["dtype"]) for r in recorded if "dtype" in r["backend"]), None))
        try:
            for mode, folder in folders.items():
                with _locked(folder):
                    measured.append(_evaluate(request, backend, mode, folder, problems, on_progress))
        finally:
            backend.close()
        del backend  # before the next model is loaded
    return measured


def folder_of(request: Request, model: str, mode: Mode) -> Path:
    """Where one model asked one way is kept."""
    folder = request.out
    if len(request.models) > 1:
        folder = folder / _slugs(request.models)[model]
    return folder / mode if len(request.modes) > 1 else folder


def _evaluate(
    request: Request,
    backend: Backend,
    mode: Mode,
    folder: Path,
    problems: Mapping[str, list[Problem]],
    on_progress: OnProgress | None,
) -> Measured:
    record = read_record(folder) if (folder / RECORD).is_file() else _new_record(backend)
    _check_backend(folder, record, backend)
    _same_threads(record)
    plans = []
    for benchmark in request.benchmarks:
        if mode not in _askable(benchmark, request.modes):
            continue
        known = record["benchmarks"].get(benchmark.name)
        plan = make_plan(
            benchmark,
            mode,
            problems[benchmark.name],
            source_name(benchmark, request.data.get(benchmark.name)),
            backend,
            request.overrides,
            None if known is None else int(known["max_new_tokens"]),
        )
        if known is not None:
            _check_same(folder, known, plan)
        plans.append(plan)
    for plan in plans:
        record["benchmarks"][plan.benchmark.name] = plan.identity() | {"data": plan.source}
    with storage_errors(folder):
        write_sealed(folder / RECORD, record)
    results, anew = [], {}
    for plan in plans:
        name = plan.benchmark.name
        clean_leftovers(folder / "samples" / name)
        store = SampleStore(folder / "samples" / name)

        def seen(done: int, total: int, name: str = name) -> None:
            if on_progress is not None:
                on_progress(backend.model, mode, name, done, total)

        anew[name] = judge_anew(plan, store)
        samples = run_plan(plan, backend, store, seen)
        drawn = store.read()
        results.append(summarise(plan, samples, store.seconds(), sum(sample.tokens for sample in drawn)))
        # After each benchmark, so that an evaluation of many that is stopped shows what it has.
        record["kept"] = record.get("kept", {}) | {name: len(drawn)}
        _write(folder, record, backend, results)
    return Measured(backend.model, mode, folder, tuple(results), tuple(plans), anew)


def _write(folder: Path, record: dict[str, Any], backend: Backend, results: Sequence[BenchmarkResult]) -> None:
    """Merge into what earlier requests left for other benchmarks.

    The record gets the hashes first, beside those of the files as they are: a kill in between leaves one that fits.
    """
    rows = read_results(folder, record, "results.json") | {result.benchmark: result.row() for result in results}
    details = read_results(folder, record, "details.json") | {
        result.benchmark: result.row() | dict(result.details) for result in results
    }
    hashes = record.setdefault("hashes", {})
    for name, value in (("results.json", rows), ("details.json", details)):
        hashes[name] = [*hashes.get(name, [])[-1:], json_digest(json.loads(json.dumps(value)))]
    with storage_errors(folder):
        write_sealed(folder / RECORD, record)
        write_json(folder / "results.json", rows)
        write_json(folder / "details.json", details)
        write_text(folder / "model-card.md", card_section(backend.model, details))


def read_results(folder: Path, record: Mapping[str, Any], name: str) -> dict[str, Any]:
    """`results.json` or `details.json`, empty where there is none.

    Raises:
        RunFolderError: it is damaged.
    """
    value, hashes = _json(folder / name), record.get("hashes", {}).get(name)
    if value and hashes and json_digest(value) not in hashes:
        raise RunFolderError(
            f"`{folder / name}` is damaged: its content does not have the hash that was written. Remove it, and run "
            "the same `rethink eval` again: it is computed again from the samples, and nothing is generated"
        )
    return value


# --- the record ------------------------------------------------------------------------------------------------------


def _new_record(backend: Backend) -> dict[str, Any]:
    return {"format": FORMAT, "backend": backend.describe(), "benchmarks": {}}


def read_record(folder: Path) -> dict[str, Any]:
    """What an evaluation's folder says of itself.

    Raises:
        RunFolderError: it is damaged, of something else, or of a later version.
    """
    record = read_sealed(folder / RECORD) or {}
    if not isinstance(record.get("backend"), dict) or not isinstance(record.get("benchmarks"), dict):
        raise RunFolderError(
            f"`{folder / RECORD}` cannot be read as the record of an evaluation; restore it, or give another --out"
        )
    if record.get("format", 0) > FORMAT:
        raise RunFolderError(f"`{folder}` was written by a later version of Rethink; update it, or give another --out")
    return record


def _check_backend(folder: Path, record: Mapping[str, Any], backend: Backend) -> None:
    asked, held = backend.describe(), record["backend"]
    if held.get("backend") == EARLIER and asked["backend"] in AUTOMATIC:
        held = held | {"backend": asked["backend"]}
    if held != asked:
        raise RunFolderError(
            f"`{folder}` holds the evaluation of {_said(record['backend'])}, not of {_said(asked)}; give "
            "another --out, or the same model"
        )


def _same_threads(record: dict[str, Any]) -> None:
    """Compute with as many threads as the evaluation began with: their number decides the order of sums."""
    torch = sys.modules.get("torch")
    if torch is not None:  # an endpoint computes elsewhere, and torch is not loaded for it
        record["threads"] = int(record.get("threads", torch.get_num_threads()))
        torch.set_num_threads(record["threads"])


def _said(description: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in description.items())


def _check_same(folder: Path, known: Mapping[str, Any], plan: Plan) -> None:
    identity = plan.identity()
    for key in _CHANGES:
        if known.get(key) != identity[key]:
            raise RunFolderError(
                f"`{folder}` holds {plan.benchmark.name} with {key} {known.get(key)!r}, and {identity[key]!r} is asked "
                "for now; samples of both cannot be counted together. Give another --out, or the same values (k may "
                "change, and --limit too where every prompt leaves room for the tokens; --max-new-tokens sets these)"
            )


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise RunFolderError(f"`{path}` cannot be read ({error}); remove it, or give another --out") from error
    if not isinstance(value, dict):
        raise RunFolderError(f"`{path}` is not an object; remove it, or give another --out")
    return value


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Make a folder and be the one process that writes to it; sweeps up after a killed one first."""
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with only_writer(folder):
        clean_leftovers(folder)
        yield


def _slugs(models: Sequence[str]) -> dict[str, str]:
    """A folder's name for each model: the end of its path, numbered if two have the same name."""
    slugs: dict[str, str] = {}
    for model in models:
        slug = slug_of(model)
        taken = set(slugs.values())
        slugs[model] = next(
            name for name in (slug, *(f"{slug}-{i}" for i in range(2, len(models) + 2))) if name not in taken
        )
    return slugs


def slug_of(model: str) -> str:
    """The last part of a model's name or path, as a folder's name."""
    last = model.rstrip("/").rpartition("/")[2].removesuffix(".gguf")
    return re.sub(r"[^\w.-]+", "-", last).strip(".-") or "model"
