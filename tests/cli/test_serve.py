"""`rethink serve`: what is refused before a model is loaded, and a server of its own process from start to SIGTERM."""

import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from rethink.cli.main import main

pytest.importorskip("fastapi", reason="the extra `serve` is not installed")


def test_help_has_examples(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["serve", "--help"])
    assert stop.value.code == 0
    shown = capsys.readouterr().out
    assert "rethink serve --model embedded" in shown
    assert "127.0.0.1" in shown


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--model", "no-such-folder"], "there is no model"),
        (["--model", "embedded", "--api-key-env", "NO_SUCH_VARIABLE"], "NO_SUCH_VARIABLE"),
        (["--model", "embedded", "--port", "99999"], "--port"),
        (["--model", "embedded", "--host", "192.0.2.1"], "--host"),
    ],
)
def test_what_cannot_be_is_refused(capsys: pytest.CaptureFixture[str], arguments: list[str], words: str) -> None:
    if "--port" not in arguments:
        arguments = [*arguments, "--port", "0"]
    assert main(["serve", *arguments]) == 2
    assert words in capsys.readouterr().err


def test_limits_beyond_the_model_are_refused(
    capsys: pytest.CaptureFixture[str], tiny_folder: Callable[..., Path]
) -> None:
    folder = str(tiny_folder("llama"))
    assert main(["serve", "--model", folder, "--port", "0", "--max-model-len", "5000"]) == 2
    assert "256" in capsys.readouterr().err
    assert main(["serve", "--model", folder, "--port", "0", "--kv-budget-gb", "0.00001"]) == 2
    assert "--kv-budget-gb" in capsys.readouterr().err


def test_another_architecture_is_refused(capsys: pytest.CaptureFixture[str], tiny_folder: Callable[..., Path]) -> None:
    config = tiny_folder("llama") / "config.json"
    changed = json.loads(config.read_text("utf-8")) | {
        "model_type": "gpt_neox",
        "architectures": ["GPTNeoXForCausalLM"],
    }
    config.write_text(json.dumps(changed), "utf-8")
    assert main(["serve", "--model", str(config.parent), "--port", "0"]) == 2
    assert "rethink sample" in capsys.readouterr().err


@pytest.mark.parametrize("how", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_a_server_from_start_to_signal(tiny_folder: Callable[..., Path], how: signal.Signals) -> None:
    command = [sys.executable, "-m", "rethink", "serve", "--model", str(tiny_folder("llama")), "--port", "0"]
    command += ["--served-model-name", "mine", "--api-key-env", "THE_KEY"]
    environment = {**os.environ, "THE_KEY": "secret", "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as server:
        try:
            line = server.stdout.readline()
            assert line.startswith("rethink serve: model mine at http://127.0.0.1:")
            url = line.split(" at ")[1].split()[0]
            body = {"model": "mine", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 24}
            headers = {"Content-Type": "application/json", "Authorization": "Bearer secret"}
            asked = urllib.request.Request(f"{url}/chat/completions", json.dumps(body).encode(), headers)
            with urllib.request.urlopen(asked, timeout=120) as answer:
                assert json.load(answer)["choices"]
            # A stream that is under way may end.
            asked.data = json.dumps(body | {"stream": True}).encode()
            with urllib.request.urlopen(asked, timeout=120) as answer:
                first = answer.readline()
                server.send_signal(how)
                assert (first + answer.read()).endswith(b"data: [DONE]\n\n")
            assert server.wait(120) == 0
            assert server.stderr.read() == ""
        finally:
            server.kill()
