"""A model is used as it was trained: the command that a run prints, `eval`, `serve`, `chat` and an exported folder ask
it with the same tokens, and it answers with the same.
"""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from rethink.chat.partner import EngineChat, Settings
from rethink.cli import main
from rethink.eval.backend import open_backend
from rethink.eval.sample_files import SampleStore
from rethink.model.loading import load_checkpoint
from rethink.model.notes import note_once
from rethink.model.tokenizer.tokenizer import Tokenizer
from rethink.rollout.engine import RolloutEngine
from rethink.rollout.engines import torch as torch_engine
from rethink.serve.server import ServeOptions, build_app
from rethink.store.as_trained import read_as_trained
from rethink.store.integrity import read_sealed, write_sealed
from rethink.store.run_folder import RunFolder
from tests.models import save_tiny

TASK = """
def problems(last):
    rows = [{"question": f"{i} and {j}?", "answer": "-"} for i in range(6) for j in range(last)]
    return rows, lambda problem, answer: float(answer == "-" or problem.question[0] in "024")
"""
RECIPE = """
name: little
steps: 1
threads: 1
model: {{path: {model}, dtype: float32}}
prompt:
  system: Be brief.
  instruction: "Say {{question}}"
  examples: [{{question: 1, completion: <think>one</think> 1}}]
  prefill: <think>
tasks: [{{kind: python, name: "task_of_test:problems", params: {{last: 6}}}}]
rollout: {{prompts_per_batch: 2, group_size: 2, max_new_tokens: 6, kv_budget_gb: 0.1, stop_strings: [zzz]}}
reward: {{answer: text, parts: [{{name: accuracy}}]}}
evaluation: {{problems: 6, every: 1, max_new_tokens: 9}}
""".replace("question: 1", 'question: "1"')


class Place:
    """A finished run, what it printed at its end, and what its evaluation asked and got."""

    def __init__(self, out: Path, printed: str):
        self.out, self.model, self.printed = out, str(out / "model"), printed
        folder = RunFolder.open(out)
        self.summary = folder.read_summary() or {}
        self.rows = folder.read_samples("step-000001") or []
        tokenizer = load_checkpoint(self.model).tokenizer
        self.asked = {row["question"]: tuple(tokenizer.encode(row["prompt"])) for row in self.rows}
        self.said = {row["question"]: (list(row["token_ids"]), row["text"]) for row in self.rows}

    def command(self, name: str) -> list[str]:
        """The words of a command that the run printed, without the program."""
        line = next(line for line in self.printed.splitlines() if f" {name} --model" in line)
        return shlex.split(line.partition(": ")[2])[1:]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, small_tokenizer: Tokenizer) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("as trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.syspath_prepend(str(folder))
        patch.setattr("rethink.machine.speed.measure_gemm", lambda **_: {"float32": 1.0})
        (folder / "task_of_test.py").write_text(TASK)
        save_tiny(folder / "start", small_tokenizer, "llama")
        (folder / "little.yaml").write_text(RECIPE.format(model="start", question="{question}"))
        with pytest.MonkeyPatch.context() as terminal:
            said: list[str] = []
            terminal.setattr("rethink.kinds.closing.say", lambda text="", **_: said.append(str(text)))
            assert main.main(["train", "little.yaml", "--plain"]) == 0
        yield Place(Path("runs/little"), "\n".join(said))


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Prompt ids of every request that an engine is given."""
    found: list[tuple[int, ...]] = []
    generate = RolloutEngine.generate

    def watched(self: RolloutEngine, requests: Any, *further: Any) -> Any:
        found.extend(request.prompt_ids for request in requests)
        return generate(self, requests, *further)

    monkeypatch.setattr(torch_engine.TorchEngine, "generate", watched)
    note_once.cache_clear()
    return found


def test_the_printed_command_solves_the_problem_as_printed(
    place: Place, asked: list[tuple[int, ...]], capsys: pytest.CaptureFixture[str]
) -> None:
    words = place.command("sample")
    assert main.main(words) == 0
    printed = capsys.readouterr()
    assert (
        printed.out.strip()
        == "\n".join(line[4:] for line in place.printed.splitlines() if line.startswith("    ")).strip()
    )
    assert printed.out.startswith("<think>")
    assert asked == [place.asked[words[-1]]]
    row = next(row for row in place.rows if row["question"] == words[-1])
    assert row["right"] == 1
    said = "is asked as it was trained (template chat, system message, 1 example, prefill '<think>'); --as-is turns"
    assert said in printed.err


def test_as_is_asks_by_the_chat_template_alone(
    place: Place, asked: list[tuple[int, ...]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.main([*place.command("sample")[:-1], "--as-is", "--max-new-tokens", "2", "hello"]) == 0
    tokenizer = load_checkpoint(place.model).tokenizer
    text = tokenizer.render_chat([{"role": "user", "content": "hello"}], add_generation_prompt=True)
    assert asked == [tuple(tokenizer.encode(text))]
    assert capsys.readouterr().err == ""


def test_eval_of_its_own_task_is_the_run_s_evaluation(
    place: Place, asked: list[tuple[int, ...]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.main([*place.command("eval"), "--out", str(tmp_path / "out")]) == 0
    results = json.loads((tmp_path / "out" / "results.json").read_text("utf-8"))["task_of_test-problems"]
    assert (results["pass@1"], results["n"]) == (place.summary["after"]["accuracy"], 6)
    assert 0 < results["pass@1"] < 1
    samples = SampleStore(tmp_path / "out" / "samples" / "task_of_test-problems").read(whole=True)
    assert {s.question: (list(s.token_ids), s.text) for s in samples} == place.said
    assert set(asked) == set(place.asked.values())
    assert "at most 9 tokens (the run's limit), prompting as trained" in capsys.readouterr().out


def test_two_models_that_were_trained_otherwise_are_not_asked_alike(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = edited(place, tmp_path, answer="last-number")
    words = ["eval", "--model", f"{place.model},{other}", "--bench", "task_of_test:problems", "--out", "out"]
    assert main.main(words) == 2
    assert "in different ways" in capsys.readouterr().err


def test_a_server_asks_as_the_run_did(place: Place, asked: list[tuple[int, ...]]) -> None:
    app = build_app(ServeOptions(model=place.model, kv_budget_bytes=1 << 24))
    with TestClient(app, base_url="http://127.0.0.1") as client:
        for question, (ids, text) in place.said.items():
            body = {"model": place.model, "messages": [{"role": "user", "content": question}], "temperature": 0}
            reply = client.post("/v1/chat/completions", json=body | {"max_tokens": 9}).json()
            assert reply["usage"]["prompt_tokens"] == len(place.asked[question])
            assert reply["usage"]["completion_tokens"] == len(ids)
            assert reply["choices"][0]["message"].get("reasoning_content", "") == text.strip()
        body["messages"] = [{"role": "assistant", "content": "hm"}]
        refused = client.post("/v1/chat/completions", json=body)
        assert refused.status_code == 400
        assert "in turns of user and assistant" in refused.json()["error"]["message"]


def test_a_conversation_begins_as_a_problem_and_goes_on(place: Place, asked: list[tuple[int, ...]]) -> None:
    chat = EngineChat(open_backend(place.model))
    question, (_, text) = next(iter(place.said.items()))
    pieces: list[str] = []
    first = {"role": "user", "content": question}
    settings = Settings(temperature=0, max_new_tokens=9)
    chat.answer([first], settings, 0, pieces.append, lambda: False)
    assert asked == [place.asked[question]]
    assert "".join(pieces) == "<think>" + text
    further = [first, {"role": "assistant", "content": "two"}, {"role": "user", "content": "3?"}]
    chat.answer(further, settings, 0, pieces.append, lambda: False)
    tokenizer = load_checkpoint(place.model).tokenizer
    assert tokenizer.decode(asked[1]).endswith(
        f"Say {question}<|im_end|>\n<|im_start|>assistant\ntwo<|im_end|>\n<|im_start|>user\nSay 3?<|im_end|>\n"
        "<|im_start|>assistant\n<think>"
    )


@pytest.mark.parametrize("source", ["model", "best", ""])
def test_an_exported_folder_is_asked_as_the_run_asked(
    place: Place, source: str, asked: list[tuple[int, ...]], tmp_path: Path
) -> None:
    out = tmp_path / "exported"
    assert main.main(["export", str(place.out / source), "--out", str(out)]) == 0
    assert read_as_trained(out) == read_as_trained(place.out / (source or "model"))
    question = place.command("sample")[-1]
    assert main.main(["sample", "--model", str(out), question]) == 0
    assert asked == [place.asked[question]]


def test_a_gguf_file_s_chat_template_asks_as_the_run_did(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "model.gguf"
    assert main.main(["export", place.model, "--to", "gguf", "--out", str(out)]) == 0
    assert "the chat template asks as the model was trained" in capsys.readouterr().out
    tokenizer = load_checkpoint(str(out), headers_only=True).tokenizer
    for question, ids in place.asked.items():
        text = tokenizer.render_chat([{"role": "user", "content": question}], add_generation_prompt=True)
        assert tuple(tokenizer.encode(text)) == ids
    again = tmp_path / "as-is.gguf"
    assert main.main(["export", place.model, "--to", "gguf", "--as-is", "--out", str(again)]) == 0
    plain = load_checkpoint(str(again), headers_only=True).tokenizer.chat_template
    assert plain == load_checkpoint(place.model).tokenizer.chat_template


def test_the_card_s_code_asks_as_the_run_did(place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "exported"
    assert main.main(["export", place.model, "--out", str(out)]) == 0
    code = (out / "README.md").read_text("utf-8").partition("```python\n")[2].partition("\n```")[0]
    question = place.command("sample")[-1]
    code = code.replace("PATH_OR_HUB_ID", str(out)).replace("What is 3 + 4?", question)
    capsys.readouterr()
    found: dict[str, Any] = {}
    exec(code, found)
    assert tuple(found["inputs"]["input_ids"][0].tolist()) == place.asked[question]
    assert capsys.readouterr().out.startswith("<think>" + place.said[question][1])


def test_a_record_that_was_changed_costs_only_itself(
    place: Place, asked: list[tuple[int, ...]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = edited(place, tmp_path)
    path = copy / "rethink.json"
    path.write_text(path.read_text("utf-8").replace("Be brief.", "Be long."))
    assert main.main(["sample", "--model", str(copy), "--max-new-tokens", "2", "hello"]) == 0
    assert "changed later" in (said := capsys.readouterr().err)
    assert "The model is used as it is." in said
    assert main.main(["export", str(copy), "--out", str(tmp_path / "out")]) == 0
    assert "exported without it" in capsys.readouterr().out
    assert not (tmp_path / "out" / "rethink.json").exists()


def test_code_that_a_model_s_file_names_is_not_run(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    task = (read_sealed(Path(place.model) / "rethink.json") or {})["tasks"][0]
    evil = edited(place, tmp_path, tasks=[task | {"name": "evil_of_test:run"}])
    Path("evil_of_test.py").write_text("raise SystemExit('it was run')")
    for name in ("evil", "task_of_test:problems", "evil_of_test"):
        assert main.main(["eval", "--model", str(evil), "--bench", name, "--out", "out"]) == 2
        assert "there is no benchmark" in capsys.readouterr().err
    judged = [{"name": "accuracy", "function": "evil_of_test:score"}]
    (tmp_path / "edited").rename(tmp_path / "evil")
    evil = edited(place, tmp_path, rewards=judged)
    assert main.main(["eval", "--model", str(evil), "--bench", "task_of_test:problems", "--out", "out"]) == 2
    assert "is not run because a model's file names it" in capsys.readouterr().err


def edited(place: Place, folder: Path, **values: Any) -> Path:
    """A copy of the run's model with other values in its record."""
    copy = folder / "edited"
    shutil.copytree(place.model, copy)
    record = read_sealed(copy / "rethink.json") or {}
    write_sealed(copy / "rethink.json", record | values)
    return copy
