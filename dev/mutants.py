"""Mutation testing: put small faults into the code, one at a time, and see whether a test notices.

    make mutants IN="rethink/algorithms rethink/store" N=40 SEED=0
    make mutants BASE=main                # only lines that differ from a commit

Each fault is judged in a copy of the tree, by the tests that belong to its file: the test file of the same name, those
that import the module, then the rest of the mirrored folder, up to the first failure. Verdicts go into a file as they
come; the same command again goes on where it stopped, and judges survivors again with ARGS=--again.

Everything runs behind bubblewrap: a fault in code that deletes, or in a wall, must not reach the machine. Tests that
run hostile programs are left out.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import time
import tomllib
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from dev.mutate import Mutant, compiles, mutants, sample

ROOT = Path(__file__).resolve().parents[1]
EQUIVALENT = Path(__file__).with_name("equivalent_mutants.toml")
HOSTILE = ("test_hostile.py", "test_worker_walls.py")
TEST_SECONDS = 240
"""Time limit of one test: a fault that loops for ever is noticed by it."""
MUTANT_SECONDS = 1200
"""Time limit of all tests of one mutant; one that takes longer is not judged."""
VERDICTS = ("killed", "timeout", "survived", "equivalent", "unjudged")

Verdict = dict[str, Any]
"""What one mutant came to; `verdict` is one of `VERDICTS`, `by` the test that failed."""


def main(argv: Sequence[str] | None = None) -> int:
    """Judge mutants and print what came out."""
    parser = argparse.ArgumentParser(description="Mutation testing of this repository.")
    parser.add_argument("folders", nargs="*", default=[], help="folders or files under rethink/; default: rethink/*")
    parser.add_argument("--n", type=int, default=40, help="mutants of each folder (default 40)")
    parser.add_argument("--seed", type=int, default=0, help="which ones (default 0)")
    parser.add_argument("--base", help="only lines that differ from this commit")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "mutants", help="folder for verdicts and the copy")
    parser.add_argument("--near", action="store_true", help="only the nearest tests; --again runs the rest later")
    parser.add_argument("--again", action="store_true", help="judge survivors and what was not judged once more")
    parser.add_argument("--show", action="store_true", help="only print what the verdicts say")
    given = parser.parse_args(argv)
    given.out = given.out.resolve()
    given.out.mkdir(parents=True, exist_ok=True)
    file = given.out / "verdicts.json"
    verdicts: dict[str, Verdict] = json.loads(file.read_text("utf-8")) if file.is_file() else {}
    chosen = choose(given.folders, given.n, given.seed, given.base)
    known = equivalent()
    if not given.show:
        if shutil.which("bwrap") is None:
            parser.error("mutants need bubblewrap: a fault in code that deletes must not reach this machine")
        open_again = {"survived", "unjudged"} if given.again else set()
        waiting = [
            m for m in chosen if m.id not in known and verdicts.get(m.id, {"verdict": ""})["verdict"] in open_again
        ]
        waiting += [m for m in chosen if m.id not in known and m.id not in verdicts]
        judge_all(waiting, verdicts, given.out, given.near)
    for mutant in chosen:
        if mutant.id in known:
            verdicts[mutant.id] = record(mutant, "equivalent", known[mutant.id]["reason"], 0)
    print(summary([verdicts[m.id] for m in chosen if m.id in verdicts]))
    return 0


def equivalent() -> dict[str, dict[str, str]]:
    """Mutants that compute the same, by id: their `file` and the `reason`."""
    found: dict[str, dict[str, str]] = tomllib.loads(EQUIVALENT.read_text("utf-8"))
    return found


def choose(folders: Sequence[str], number: int, seed: int, base: str | None) -> list[Mutant]:
    """The mutants to judge: a sample of each folder, folders in turn, so that an early end leaves none out."""
    changed = changed_lines(base) if base else None
    named = folders or sorted({p.parent.relative_to(ROOT).as_posix() for p in (ROOT / "rethink").glob("*/__init__.py")})
    samples = []
    for folder in named:
        place = ROOT / folder
        files = [place] if place.is_file() else sorted(place.rglob("*.py"))
        if not files:
            sys.exit(f"{folder} is no Python file and holds none")
        sources = {path.resolve().relative_to(ROOT).as_posix(): path.read_bytes() for path in files}
        candidates = [m for name, source in sources.items() for m in mutants(name, source)]
        if changed is not None:
            candidates = [m for m in candidates if m.line in changed.get(m.path, ())]
        samples.append(sample(candidates, number, seed, partial(_compiles, sources)))
    longest = max(map(len, samples), default=0)
    return [one[i] for i in range(longest) for one in samples if i < len(one)]


def _compiles(sources: Mapping[str, bytes], mutant: Mutant) -> bool:
    return compiles(mutant.apply(sources[mutant.path]))


def changed_lines(base: str) -> dict[str, set[int]]:
    """Lines of each file, from 1, that differ from a commit or are new."""
    command = ["git", "-C", str(ROOT), "diff", "--unified=0", "--no-color", base, "--", "rethink"]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    lines: dict[str, set[int]] = {}
    name = ""
    for line in text.splitlines():
        if line.startswith("+++ "):
            name = line.removeprefix("+++ ").removeprefix("b/")
        elif found := re.match(r"@@ \S+ \+(\d+)(?:,(\d+))? @@", line):
            first, count = int(found[1]), int(found[2] or 1)
            lines.setdefault(name, set()).update(range(first, first + count))
    return lines


def tests_of(path: str, tests: Mapping[str, str]) -> tuple[list[str], list[str]]:
    """The test files that belong to a file of the package: the nearest, and the others.

    The nearest are the one of the same name and those of the mirrored folder that import the module; where there is
    none, those elsewhere that do.

    Args:
        path: of the file, from the root.
        tests: the text of every test file, by its path from the root.
    """
    file = Path(path)
    inner = file.relative_to("rethink")
    module = ".".join(file.with_suffix("").parts).removesuffix(".__init__")
    package, _, name = module.rpartition(".")
    imports = re.compile(
        rf"\b{re.escape(module)}\b|from {re.escape(package)} import (?:\([^)]*)?[^\n(]*\b{re.escape(name)}\b"
    )
    folder = f"tests/{inner.parts[0]}/"
    twins = {f"test_{inner.stem}.py", f"test_{inner.parent.name}_{inner.stem}.py", f"test_{inner.parent.name}.py"}
    ranked = []
    for test, text in sorted(tests.items()):
        base = Path(test).name
        if base.startswith("test_") and base not in HOSTILE:
            mirrors = test.startswith(folder)
            if mirrors and base in twins:
                ranked.append((0, test))
            elif imports.search(text):
                ranked.append((1 if mirrors else 2, test))
            elif mirrors:
                ranked.append((3, test))
    last = 1 if any(rank < 2 for rank, _ in ranked) else 2
    near, rest = ([test for rank, test in sorted(ranked) if (rank > last) == far] for far in (False, True))
    return near, rest


def record(mutant: Mutant, verdict: str, by: str, seconds: float) -> Verdict:
    """A verdict as it stands in the file."""
    return {
        "id": mutant.id,
        "place": f"{mutant.path}:{mutant.line}",
        "where": mutant.where,
        "kind": mutant.kind,
        "before": mutant.before,
        "after": mutant.after,
        "verdict": verdict,
        "by": by,
        "seconds": round(seconds, 1),
    }


def judge_all(waiting: Sequence[Mutant], verdicts: dict[str, Verdict], out: Path, near: bool) -> None:
    """Judge mutants one after another; at the end, see that the tests that failed pass without a mutant."""
    tree = copy_tree(out)
    names = [p.relative_to(tree).as_posix() for p in sorted((tree / "tests").rglob("*.py"))]
    tests = {name: (tree / name).read_text("utf-8") for name in names}
    server = Server(tree, out)
    code, text = server.pytest(["--collect-only", "tests/algorithms"])
    if code != 0:
        sys.exit(f"the tests cannot be run without a mutant:\n{text[-2000:]}")
    mine = []
    for i, mutant in enumerate(waiting):
        source = (tree / mutant.path).read_bytes()
        (tree / mutant.path).write_bytes(mutant.apply(source))
        started = time.monotonic()
        try:
            verdict, by = judge(server, tests_of(mutant.path, tests), near)
        finally:
            (tree / mutant.path).write_bytes(source)
        one = verdicts[mutant.id] = record(mutant, verdict, by, time.monotonic() - started)
        mine.append(one)
        _save(out, verdicts)
        print(f"{i + 1}/{len(waiting)} {one['seconds']:5} s {verdict:9} {one['place']} {mutant.kind} {by}", flush=True)
    failing = confirm(server, {v["by"] for v in mine if v["verdict"] in ("killed", "timeout")})
    for one in mine:
        if one["verdict"] in ("killed", "timeout") and one["by"] in failing:
            one |= {"verdict": "unjudged", "by": f"{one['by']} fails without a mutant too"}
    _save(out, verdicts)
    server.close()


def copy_tree(out: Path) -> Path:
    """A copy of what git tracks or would track, compiled once; sources that change are compiled anew."""
    tree = out / "tree"
    shutil.rmtree(tree, ignore_errors=True)
    command = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, tree / name)
    compiling = [sys.executable, "-m", "compileall", "-q", "--invalidation-mode", "checked-hash", "rethink"]
    subprocess.run(compiling, cwd=tree, check=True)
    return tree


def judge(server: Server, files: tuple[list[str], list[str]], near: bool) -> tuple[str, str]:
    """(verdict, the test that failed) of the copy as it stands now."""
    for chosen in files[: 1 if near and files[0] else 2]:
        if not chosen:
            continue
        code, text = server.pytest([*chosen, "-x"])
        if code is None:
            return "unjudged", f"longer than {MUTANT_SECONDS} s"
        if code not in (0, 5):  # 0: passed; 5: nothing was collected
            by = re.search(r"^(?:FAILED|ERROR) (\S+)", text, re.MULTILINE)
            timeout = re.search(r"Failed: Timeout|\+ Timeout \+", text)
            return "timeout" if timeout else "killed", by[1] if by else "import"
    return "survived", "the nearest tests" if near and files[0] else ""


def confirm(server: Server, failed: set[str]) -> set[str]:
    """Those of the tests that fail in the copy without any mutant: they show nothing."""
    chosen = sorted(failed - {"import"})
    if not chosen:
        return set()
    code, text = server.pytest(chosen, 3 * MUTANT_SECONDS)
    if code == 0:
        return set()
    return set(re.findall(r"^(?:FAILED|ERROR) (\S+)", text, re.MULTILINE)) or set(chosen)


class Server:
    """Runs pytest in the copy, behind walls: see `dev/mutants_server.py`."""

    def __init__(self, tree: Path, out: Path):
        scratch = out / "tmp"
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir()
        walls = ["bwrap", "--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc", "--bind", str(scratch), "/tmp"]
        walls += ["--bind", str(tree), str(tree), "--chdir", str(tree), "--unshare-pid", "--unshare-net"]
        walls += ["--unshare-ipc", "--die-with-parent"] + (["--cap-add", "ALL"] if os.geteuid() == 0 else [])
        shared = os.environ.get("RETHINK_SHARED_DATA") or str(ROOT.parent / "shared" / "data")
        environment = os.environ | {"PYTHONPATH": str(tree), "RETHINK_SHARED_DATA": shared, "COLUMNS": "300"}
        self._process = subprocess.Popen(
            [*walls, sys.executable, str(ROOT / "dev" / "mutants_server.py")],
            env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def pytest(self, arguments: Sequence[str], seconds: float = MUTANT_SECONDS) -> tuple[int | None, str]:
        """(exit status, output) of pytest with these arguments; the status is None where the time is over."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        options = ["-q", "--no-header", "-p", "no:cacheprovider", "--tb=line", f"--timeout={TEST_SECONDS}"]
        options += ["-o", "tmp_path_retention_policy=none", "-m", "not slow and not network"]
        self._process.stdin.write(json.dumps({"arguments": [*options, *arguments], "seconds": seconds}) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            sys.exit(f"the process that runs the tests ended with {self._process.wait()}")
        reply = json.loads(line)
        return reply["status"], reply["text"]

    def close(self) -> None:
        """End it and all that it started."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def _save(out: Path, verdicts: Mapping[str, Verdict]) -> None:
    draft = out / "verdicts.json.draft"
    draft.write_text(json.dumps(verdicts, indent=1, ensure_ascii=False), "utf-8")
    draft.replace(out / "verdicts.json")


def summary(verdicts: Sequence[Verdict]) -> str:
    """Survivors with what was changed, then a table of the folders: killed of those that could be."""
    lines = []
    counts: dict[str, Counter[str]] = {}
    for one in verdicts:
        folder = "/".join(one["place"].split("/")[:2])
        counts.setdefault(folder, Counter())[one["verdict"]] += 1
        if one["verdict"] == "survived":
            lines.append(f"{one['id']} {one['place']} {one['where']} ({one['kind']})")
            lines += [f"  - {line}" for line in one["before"].splitlines()]
            lines += [f"  + {line}" for line in one["after"].splitlines()]
    lines.append(f"{'folder':24}" + "".join(f"{name:>12}" for name in (*VERDICTS, "killed %")))
    counts["all"] = sum(counts.values(), Counter())
    for folder, count in counts.items():
        noticed = count["killed"] + count["timeout"]
        judged = noticed + count["survived"]
        rate = f"{100 * noticed / judged:.0f}" if judged else "–"
        lines.append(f"{folder:24}" + "".join(f"{count[name]:>12}" for name in VERDICTS) + f"{rate:>12}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
