"""The mutation tool: which faults it makes, which tests it chooses, what counts as noticed."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from dev import mutants, mutants_server
from dev.mutate import Mutant, compiles, sample
from dev.mutate import mutants as faults

SOURCE = '''\
"""A text with 1 number."""
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    LIMIT = 7


def größe(values: "list[int | None]", low: int) -> int:
    """Not 2."""
    if low < 0 and values:
        raise ValueError(f"{low + 1} is low")
    total = abs(sum(values, start=low))
    total += 3
    print("é", total)
    return total * 2
'''


def made(kind: str) -> set[tuple[str, str]]:
    return {(m.before, m.after) for m in faults("a.py", SOURCE.encode()) if m.kind == kind}


def test_each_kind_of_fault() -> None:
    assert made("comparison") == {("low < 0", "(low <= 0)"), ("low < 0", "(low >= 0)")}
    assert made("boolean") == {("low < 0 and values", "(low < 0 or values)")}
    assert made("operand") == {("low < 0 and values", "(values)"), ("low < 0 and values", "(low < 0)")}
    assert made("arithmetic") == {("total += 3", "total -= 3"), ("total * 2", "(total / 2)")}
    assert made("constant") == {("0", "(1)"), ("0", "(-1)"), ("3", "(4)"), ("3", "(2)"), ("2", "(3)"), ("2", "(1)")}
    assert made("wrapper") == {("abs(sum(values, start=low))", "(sum(values, start=low))")}
    assert made("keyword") == {("sum(values, start=low)", "sum(values)")}
    assert made("arguments") == {("print('é', total)".replace("'", '"'), "print(total, 'é')")}
    assert made("return") == {("return total * 2", "return None")}
    assert not [m for m in faults("a.py", b"x = max(a, b)\n") if m.kind == "arguments"]
    dropped = {before for before, after in made("statement") if after == "pass"}
    assert dropped == {'raise ValueError(f"{low + 1} is low")', "total += 3", 'print("é", total)'}


def test_a_fault_changes_its_place_alone_and_is_the_same_lower_down() -> None:
    found = faults("a.py", SOURCE.encode())
    for fault in found:
        text = fault.apply(SOURCE.encode())
        assert compiles(text), fault
        assert text[: fault.start] + fault.before.encode() + text[fault.start + len(fault.after.encode()) :] == (
            SOURCE.encode()
        )
        assert fault.where == "größe"
    moved = faults("a.py", b"import os\n\n" + SOURCE.encode())
    assert [m.id for m in moved] == [m.id for m in found]
    assert [m.line for m in moved] == [m.line + 2 for m in found]
    assert len({m.id for m in found}) == len(found)


def test_a_sample_takes_each_kind_in_turn_and_repeats() -> None:
    found = faults("a.py", SOURCE.encode())
    kinds = {fault.kind for fault in found}
    chosen = sample(found, len(kinds), seed=3)
    assert {fault.kind for fault in chosen} == kinds
    assert chosen == sample(found, len(kinds), seed=3) != sample(found, len(kinds), seed=4)
    assert {m.kind for m in sample(found, 99, 0, lambda fault: fault.kind == "constant")} == {"constant"}
    assert not compiles(b"def f(:\n")


def test_the_nearest_tests_come_first_and_hostile_ones_never() -> None:
    tests = {
        "tests/eval/grading/test_drop.py": "",
        "tests/eval/grading/test_graders.py": "from rethink.eval.grading.drop import drop_scores",
        "tests/eval/test_tables.py": "from rethink.eval.grading.dropping import x",
        "tests/cli/test_eval.py": "from rethink.eval.grading import code_graders, drop",
        "tests/eval/test_hostile.py": "from rethink.eval.grading.drop import drop_scores",
        "tests/eval/conftest.py": "import rethink.eval.grading.drop",
        "tests/model/test_chat.py": "",
    }
    near, rest = mutants.tests_of("rethink/eval/grading/drop.py", tests)
    assert near == ["tests/eval/grading/test_drop.py", "tests/eval/grading/test_graders.py"]
    assert rest == ["tests/cli/test_eval.py", "tests/eval/test_tables.py"]
    near, _ = mutants.tests_of("rethink/eval/grading/code_graders.py", tests)
    assert near == ["tests/cli/test_eval.py"]


class Runs:
    """Stands for the process that runs tests; replies in turn."""

    def __init__(self, *replies: tuple[int | None, str]):
        self.replies = list(replies)
        self.asked: list[list[str]] = []

    def pytest(self, arguments: list[str], seconds: float = 0.0) -> tuple[int | None, str]:
        self.asked.append(arguments)
        return self.replies.pop(0)


FAILED = "== summary ==\nFAILED tests/a.py::test_x[1-2] - assert 1\n1 failed"


@pytest.mark.parametrize(
    ("replies", "near", "verdict"),
    [
        ([(1, FAILED)], False, ("killed", "tests/a.py::test_x[1-2]")),
        ([(0, "1 passed"), (1, FAILED)], False, ("killed", "tests/a.py::test_x[1-2]")),
        ([(0, "1 passed"), (5, "no tests ran")], False, ("survived", "")),
        ([(0, "1 passed")], True, ("survived", "the nearest tests")),
        ([(4, "ImportError while loading conftest")], False, ("killed", "import")),
        ([(1, FAILED + "\nE Failed: Timeout (>240.0s)")], False, ("timeout", "tests/a.py::test_x[1-2]")),
        ([(None, "")], False, ("unjudged", f"longer than {mutants.MUTANT_SECONDS} s")),
    ],
)
def test_what_counts_as_noticed(replies: list[Any], near: bool, verdict: tuple[str, str]) -> None:
    server: Any = Runs(*replies)
    assert mutants.judge(server, (["tests/a.py"], ["tests/b.py"]), near) == verdict
    assert not server.replies


def test_a_test_that_fails_without_the_fault_shows_nothing() -> None:
    server: Any = Runs((1, FAILED))
    assert mutants.confirm(server, {"tests/a.py::test_x[1-2]", "tests/a.py::test_y", "import"}) == {
        "tests/a.py::test_x[1-2]"
    }
    assert server.asked == [["tests/a.py::test_x[1-2]", "tests/a.py::test_y"]]
    assert mutants.confirm(server, {"import"}) == set()


def test_the_table_counts_what_could_be_noticed() -> None:
    fault = Mutant("rethink/eval/grading/drop.py", 3, "constant", "f", 0, 1, "1", "(2)", "0123456789")
    verdicts = [mutants.record(fault, verdict, "", 1) for verdict in ("killed", "timeout", "survived", "equivalent")]
    text = mutants.summary(verdicts)
    assert "0123456789 rethink/eval/grading/drop.py:3 f (constant)\n  - 1\n  + (2)" in text
    assert text.splitlines()[-1].split() == ["all", "1", "1", "1", "1", "0", "67"]


def test_only_lines_that_differ(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mutants, "ROOT", tmp_path)
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@example.org", "-C", str(tmp_path)]
    file = tmp_path / "rethink" / "a.py"
    file.parent.mkdir()
    file.write_text("x = 1\ny = 2\nz = 3\n")
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "one"]):
        subprocess.run([*git, *words], check=True)
    file.write_text("x = 1\ny = 3\nz = 3\nu = 4\nv = 5\n")
    assert mutants.changed_lines("HEAD") == {"rethink/a.py": {2, 4, 5}}
    chosen = mutants.choose(["rethink"], 99, 0, "HEAD")
    assert {fault.line for fault in chosen} == {2, 4, 5}


def test_equivalent_mutants_are_there_and_have_a_reason() -> None:
    root = mutants.ROOT
    for name, entry in mutants.equivalent().items():
        assert entry["reason"], name
        assert name in {fault.id for fault in faults(entry["file"], (root / entry["file"]).read_bytes())}, name


def test_each_run_is_a_process_of_its_own_and_leaves_none(tmp_path: Path) -> None:
    """In a process of its own: the server collects every orphan below it."""
    test = tmp_path / "test_it.py"
    test.write_text(
        "import subprocess, sys, time\n"
        "def test_sleeps():\n"
        "    subprocess.Popen(['sleep', '98765'], start_new_session=True)\n"
        "    time.sleep(1000)\n"
        "def test_fails():\n    assert 0\n"
    )
    code = (
        "import psutil\nfrom dev import mutants_server as s\n"
        "s.collect_orphans()\n"
        f"print(s.run([{str(test)!r}, '-q', '-k', 'fails', '-p', 'no:cacheprovider'], 60)[0])\n"
        f"print(s.run([{str(test)!r}, '-q', '-k', 'sleeps', '-p', 'no:cacheprovider'], 3)[0])\n"
        "print(psutil.Process().children(recursive=True))\n"
    )
    done = subprocess.run(
        [mutants.sys.executable, "-c", code], cwd=mutants.ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["1", "None", "[]"]
    assert "torch" in mutants_server.HEAVY
