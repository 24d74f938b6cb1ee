"""The toy model of trial runs."""

from __future__ import annotations

from pathlib import Path

from rethink.model.build import build_model
from rethink.model.loading import Checkpoint, load_checkpoint
from rethink.model.tiny import TINY, write_tiny


def test_it_loads_and_is_the_same_every_time(embedded: Checkpoint, tmp_path: Path) -> None:
    first = load_checkpoint(TINY)
    write_tiny(tmp_path / "again", embedded.tokenizer)
    again = load_checkpoint(str(tmp_path / "again"))
    assert first.config is not None
    assert first.tokenizer.encode("some text") == embedded.tokenizer.encode("some text")
    assert (first.folder / "model.safetensors").read_bytes() == (again.folder / "model.safetensors").read_bytes()
    assert first.config.max_position_embeddings >= 1024
    build_model(first, "float32", "cpu")
