"""Saved folders: bit-identical, loadable by transformers, whole or not there."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from rethink.errors import StorageFailure
from rethink.model import saving
from rethink.model.loading import load_checkpoint
from rethink.model.saving import save_hf_folder
from tests.models import llama3_rope

FolderMaker = Callable[..., Path]


def bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().view(torch.uint8)


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3", "mistral"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_round_trip_is_bit_identical_and_loads_in_transformers(
    tiny_folder: FolderMaker, tmp_path: Path, architecture: str, dtype: torch.dtype
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    first = load_checkpoint(str(tiny_folder(architecture)))
    out = tmp_path / "out"
    save_hf_folder(out, first.tensors, first.hf_config, first.tokenizer, dtype)
    again = load_checkpoint(str(out))
    assert again.config == first.config
    assert set(again.tensors) == set(first.tensors)
    for name, tensor in first.tensors.items():
        assert torch.equal(bits(again.tensors[name]), bits(tensor.to(dtype)))
    model = AutoModelForCausalLM.from_pretrained(out)
    assert model.dtype == dtype
    state = model.state_dict()
    assert all(torch.equal(bits(state[name]), bits(again.tensors[name])) for name in again.tensors)
    theirs = AutoTokenizer.from_pretrained(out)
    text = "What is 12+345? <|im_end|> 中文"
    assert theirs(text, add_special_tokens=False)["input_ids"] == first.tokenizer.encode(text)
    assert theirs.chat_template == first.tokenizer.chat_template
    assert theirs.eos_token_id == first.tokenizer.eos_id


def test_config_of_a_decoder_alone_loads_in_transformers(tiny_folder: FolderMaker, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    from rethink.model.decoder.hf_config import to_hf_config

    scaling = llama3_rope(5e5)
    first = load_checkpoint(str(tiny_folder("llama", rope_parameters=scaling)))
    assert first.config is not None
    save_hf_folder(tmp_path / "out", first.tensors, to_hf_config(first.config), first.tokenizer)
    ids = torch.arange(3, 100)[None]
    with torch.no_grad():
        expected = AutoModelForCausalLM.from_pretrained(first.folder)(ids).logits
        found = AutoModelForCausalLM.from_pretrained(tmp_path / "out")(ids).logits
    assert torch.equal(found, expected)


def test_shards_and_what_an_earlier_export_left(tiny_folder: FolderMaker, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    first = load_checkpoint(str(tiny_folder("qwen3")))
    out = tmp_path / "out"
    save_hf_folder(out, first.tensors, first.hf_config, first.tokenizer, shard_bytes=30_000)
    assert len(list(out.glob("*.safetensors"))) > 2
    state = AutoModelForCausalLM.from_pretrained(out).state_dict()
    assert all(torch.equal(state[name], first.tensors[name]) for name in first.tensors)
    save_hf_folder(out, first.tensors, first.hf_config, first.tokenizer)
    assert [path.name for path in out.iterdir() if "safetensors" in path.name] == ["model.safetensors"]
    assert not [path for path in out.iterdir() if path.name.startswith(".")]


def test_tied_head_is_left_out_and_views_are_stored_alone(tiny_folder: FolderMaker, tmp_path: Path) -> None:
    first = load_checkpoint(str(tiny_folder("llama", tie_word_embeddings=True)))
    tensors = dict(first.tensors)
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]
    gate, up = (f"model.layers.0.mlp.{name}_proj.weight" for name in ("gate", "up"))
    fused = torch.cat([tensors[gate], tensors[up]])
    tensors[gate], tensors[up] = fused.chunk(2)
    save_hf_folder(tmp_path / "out", tensors, first.hf_config, first.tokenizer)
    again = load_checkpoint(str(tmp_path / "out"))
    assert "lm_head.weight" not in again.tensors
    assert torch.equal(again.tensors[up], first.tensors[up])
    assert (tmp_path / "out" / "model.safetensors").stat().st_mode & 0o777 == (
        tmp_path / "out" / "config.json"
    ).stat().st_mode & 0o777


def test_full_disk_keeps_the_earlier_export(
    tiny_folder: FolderMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = load_checkpoint(str(tiny_folder("llama")))
    out = tmp_path / "out"
    save_hf_folder(out, first.tensors, first.hf_config, first.tokenizer)
    before = {path.name: path.read_bytes() for path in out.iterdir()}

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(StorageFailure, match="no space"):
        save_hf_folder(out, first.tensors, first.hf_config, first.tokenizer, torch.bfloat16)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_default_shard_size_is_five_gigabytes() -> None:
    assert saving.SHARD_BYTES == 5_000_000_000
