"""The command line without its work: help, arguments, errors, exit codes, start-up."""

import os
import subprocess
import sys
import types
from pathlib import Path

import pytest

from rethink.cli import arguments, main
from rethink.errors import RunFailure, UsageError
from rethink.kinds import closing

ROOT = Path(__file__).resolve().parents[2]


def rethink(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "rethink", *words]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)


@pytest.fixture
def verb(monkeypatch: pytest.MonkeyPatch) -> types.SimpleNamespace:
    """A verb `act` whose work a test sets as `act.run`."""
    holder = types.SimpleNamespace(run=lambda args: 0)

    def add_parser(verbs: arguments.Verbs) -> None:
        arguments.verb(verbs, "act", "act", "  rethink act\n", lambda a: holder.run(a), lambda a: "Say `act` again.")

    monkeypatch.setattr(main, "doctor", types.SimpleNamespace(add_parser=add_parser))
    return holder


@pytest.mark.parametrize("words", [("--help",), ("train", "--help"), ("sample", "--help"), ("report", "--help")])
def test_help_has_examples(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main.main(words)
    assert stopped.value.code == 0
    assert "examples:\n  rethink " in capsys.readouterr().out


def test_start_imports_nothing_heavy() -> None:
    heavy = ("torch", "numpy", "pydantic", "rich", "transformers", "pyarrow", "yaml")
    code = (
        "import sys, rethink.cli.main as m; m.build_parser().format_help();"
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    # numpy is there: the plain data of `rethink.types` names its arrays.
    assert done.stdout.strip() in ("[]", "['numpy']")


def test_rethink_alone_shows_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main.main([])
    assert stopped.value.code == 0
    assert "examples:\n  rethink doctor" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["trian", "quickstart"], "there is no command 'trian'; did you mean `train`? `rethink --help` lists them"),
        (["xyzzy"], "there is no command 'xyzzy'; `rethink --help` lists them"),
        (["train", "quickstart", "--steps", "5"], "arguments: --steps. Values of the recipe have no dashes: steps=5"),
        (["train", "quickstart", "--optimizer.learning-rate=1e-5"], "no dashes: optimizer.learning_rate=1e-5"),
        (["train", "quickstart", "--steps"], "no dashes: steps=VALUE"),
        (["doctor", "--steps", "5"], "unrecognized arguments: --steps 5\n"),
    ],
)  # fmt: skip
def test_a_near_miss_says_what_to_type(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main.main(words)
    assert stopped.value.code == 2
    assert said in capsys.readouterr().err


def test_a_terminal_without_unicode_gets_help_all_the_same() -> None:
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    command = [sys.executable, "-m", "rethink", "eval", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False, env=environment)
    assert (done.returncode, done.stderr) == (0, "")
    assert "--model M[,M2?]" in done.stdout


def test_version() -> None:
    import rethink as package

    done = rethink("--version")
    assert (done.returncode, done.stdout) == (0, f"rethink {package.__version__}\n")


@pytest.mark.parametrize(
    "words",
    [
        ("fly",),
        ("train",),
        ("train", "quickstart", "--fast"),
        ("sample", "a", "b"),
        ("sample", "a", "--n", "0"),
        ("sample", "a", "--top-p", "0"),
        ("sample", "a", "--temperature", "-1"),
        ("sample", "a", "--temperature", "nan"),
        ("sample", "a", "--temperature", "inf"),
        ("sample", "a", "--raw", "--system", "b"),
    ],
)
def test_bad_usage_is_2_and_names_nothing_else(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main.main(words)
    assert stopped.value.code == 2
    assert "usage: rethink" in capsys.readouterr().err


def test_a_refused_number_says_what_is_allowed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main.main(["sample", "a", "--top-p", "1.5"])
    assert "'1.5' is not a number above 0 and at most 1" in capsys.readouterr().err


def test_overrides_may_stand_on_both_sides_of_options() -> None:
    args = main.parse(["train", "a.yaml", "x=1", "--out", "here", "y=2", "--resume", "z.0.w=[1, 2]"])
    assert args.overrides == ["x=1", "y=2", "z.0.w=[1, 2]"]
    assert (args.recipe, args.out, args.resume) == ("a.yaml", Path("here"), True)


@pytest.mark.parametrize(("error", "code"), [(UsageError("Do this."), 2), (RunFailure("Disk full."), 1)])
def test_an_error_is_one_paragraph_and_its_code(
    verb: types.SimpleNamespace, capsys: pytest.CaptureFixture[str], error: Exception, code: int
) -> None:
    def fail(_: object) -> int:
        raise error

    verb.run = fail
    assert main.main(["act"]) == code
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", f"rethink: {error}\n")


def test_interrupted_is_130_and_says_how_to_go_on(
    verb: types.SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(_: object) -> int:
        raise KeyboardInterrupt

    verb.run = stop
    assert main.main(["act"]) == 130
    assert "Say `act` again." in capsys.readouterr().err


def test_a_bug_is_not_swallowed(verb: types.SimpleNamespace) -> None:
    def stumble(_: object) -> int:
        raise ZeroDivisionError

    verb.run = stumble
    with pytest.raises(ZeroDivisionError):
        main.main(["act"])


def test_a_reader_that_left_is_no_traceback() -> None:
    code = (
        "import sys; from rethink.cli import main as m, report;"
        "report.run = lambda args: print('x' * 10**6) or 0; sys.exit(m.main(['report', '.']))"
    )
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as closed:
        done = subprocess.run(
            [sys.executable, "-c", code], stdout=closed, stderr=subprocess.PIPE, text=True, cwd=ROOT, check=False
        )
    assert (done.returncode, done.stderr) == (main.BROKEN_PIPE, "")


@pytest.mark.parametrize(
    ("called", "found", "said"),
    [
        ("/usr/bin/rethink", "/usr/bin/rethink", "rethink"),
        (".venv/bin/rethink", None, ".venv/bin/rethink"),
        (".venv/bin/rethink", "/usr/bin/rethink", ".venv/bin/rethink"),
        ("/x/rethink/__main__.py", None, "python -m rethink"),
        ("/x/pytest", None, "rethink"),
    ],
)
def test_commands_in_messages_can_be_pasted(
    monkeypatch: pytest.MonkeyPatch, called: str, found: str | None, said: str
) -> None:
    monkeypatch.setattr(sys, "argv", [called])
    monkeypatch.setattr(closing.shutil, "which", lambda _: found)
    assert closing.program() == said
