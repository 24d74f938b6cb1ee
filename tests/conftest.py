"""For all tests: no network, nothing that one test leaves to the next, and small models: random weights, a vocabulary
of about a thousand."""

from __future__ import annotations

import copy
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest

# Read by libraries when they are imported, so they are set before any test module is.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("WANDB_MODE", "offline")

from rethink.model.embedded import INSTALL, embedded_installed
from rethink.model.loading import Checkpoint, load_checkpoint
from rethink.model.tokenizer.tokenizer import Tokenizer
from tests.paths import SHARED_DATA

# On a busy machine any example may take longer than the usual 200 ms: no test is about its own time.
hypothesis.settings.register_profile("without-a-clock", deadline=None)
hypothesis.settings.load_profile("without-a-clock")


WITHOUT_DATA = "without-data"
"""Category of tests that skip because reference data are missing: a number of its own in pytest's last line."""


def pytest_report_teststatus(report: pytest.CollectReport | pytest.TestReport) -> tuple[str, str, str] | None:
    reason = report.longrepr[2] if report.skipped and isinstance(report.longrepr, tuple) else ""
    return (WITHOUT_DATA, "s", "SKIPPED") if str(SHARED_DATA) in reason else None


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    missing = len(terminalreporter.stats.get(WITHOUT_DATA, ()))
    if missing:
        where = f"{SHARED_DATA} (RETHINK_SHARED_DATA names another place)"
        terminalreporter.write_line(f"{missing} tests need reference data that are not at {where}")


@pytest.fixture(autouse=True)
def _torch_threads_stay() -> Iterator[None]:
    """A test that sets torch's threads must not change how the next one computes."""
    before = sys.modules["torch"].get_num_threads() if "torch" in sys.modules else None
    yield
    if before is not None:
        sys.modules["torch"].set_num_threads(before)


GOLDEN = Path(__file__).parent / "model" / "golden"
CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture(scope="session")
def vocabulary_fields() -> Callable[[str, str], dict[str, Any]]:
    """`tokenizer.*` fields of a GGUF with the small vocabulary of a kind and a named pre-tokenizer."""
    vocabularies = json.loads((GOLDEN / "vocabularies.json").read_text("utf-8"))

    def fields(kind: str, pre: str) -> dict[str, Any]:
        vocabulary = copy.deepcopy(vocabularies[kind])  # a test may change its own
        own = {"merges": vocabulary["merges"]} if kind == "gpt2" else {"scores": vocabulary["scores"]}
        named = {
            "model": kind,
            "pre": pre,
            "tokens": vocabulary["tokens"],
            "token_type": vocabulary["types"],
            "bos_token_id": 1,
            "eos_token_id": 2,
            "padding_token_id": 0,
        }
        return {f"tokenizer.ggml.{key}": value for key, value in (named | own).items()} | {
            "tokenizer.chat_template": CHATML
        }

    return fields


@pytest.fixture(scope="session")
def small_tokenizer(vocabulary_fields: Callable[[str, str], dict[str, Any]]) -> Tokenizer:
    return Tokenizer.from_gguf_fields(vocabulary_fields("gpt2", "qwen2"))


@pytest.fixture
def tiny_folder(tmp_path: Path, small_tokenizer: Tokenizer) -> Callable[..., Path]:
    """Makes a folder that `transformers` saved: random weights of a family, with the small tokenizer."""

    def make(architecture: str, name: str | None = None, shard: str = "5GB", **overrides: Any) -> Path:
        from tests.models import save_tiny  # it imports torch

        return save_tiny(tmp_path / (name or architecture), small_tokenizer, architecture, shard, **overrides)

    return make


@pytest.fixture(scope="session")
def embedded() -> Checkpoint:
    """The embedded model; skipped where its package is missing."""
    if not embedded_installed():
        pytest.skip(f"the embedded model is not installed ({INSTALL})")
    return load_checkpoint("embedded")
