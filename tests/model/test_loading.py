"""Folders, hub ids and paths that are wrong: what is loaded is what was saved, and errors say what to do."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from huggingface_hub import errors
from huggingface_hub.errors import HFValidationError

from rethink.errors import ModelError
from rethink.model.decoder.config import Llama3RopeScaling
from rethink.model.loading import load_checkpoint
from tests.models import llama3_rope

FolderMaker = Callable[..., Path]
LLAMA3 = llama3_rope(5e5)


def saved_state(folder: Path) -> dict[str, torch.Tensor]:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).state_dict()


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3", "mistral"])
@pytest.mark.parametrize("tied", [False, True])
def test_tensors_and_shape_are_those_that_transformers_saved(
    tiny_folder: FolderMaker, architecture: str, tied: bool
) -> None:
    folder = tiny_folder(architecture, tie_word_embeddings=tied)
    checkpoint = load_checkpoint(str(folder))
    state = saved_state(folder)
    if tied:
        state.pop("lm_head.weight")
    assert set(checkpoint.tensors) == set(state)
    assert all(torch.equal(checkpoint.tensors[name], state[name]) for name in state)
    assert checkpoint.config is not None
    assert checkpoint.config.architecture == architecture
    assert checkpoint.config.tie_word_embeddings is tied
    assert (checkpoint.config.qkv_bias, checkpoint.config.qk_norm) == (architecture == "qwen2", architecture == "qwen3")


def test_llama3_scaling_is_read_from_what_transformers_writes(tiny_folder: FolderMaker) -> None:
    config = load_checkpoint(str(tiny_folder("llama", rope_parameters=LLAMA3))).config
    assert config is not None
    assert config.rope_theta == 5e5
    assert config.rope_scaling == Llama3RopeScaling(8.0, 1.0, 4.0, 64)


def test_sharded_folder_holds_all_tensors(tiny_folder: FolderMaker) -> None:
    folder = tiny_folder("llama", shard="20KB")
    assert len(list(folder.glob("model-*.safetensors"))) > 2
    tensors = load_checkpoint(str(folder)).tensors
    state = saved_state(folder)
    assert set(tensors) == set(state)
    assert all(torch.equal(tensors[name], state[name]) for name in state)


def test_architecture_outside_the_family_loads_without_a_decoder_config(tiny_folder: FolderMaker) -> None:
    folder = tiny_folder("llama", attention_bias=True)
    checkpoint = load_checkpoint(str(folder))
    assert checkpoint.config is None
    assert checkpoint.reason is not None
    assert "attention_bias" in checkpoint.reason
    assert "model.layers.0.self_attn.o_proj.bias" in checkpoint.tensors


def spoil_missing_shard(folder: Path) -> str:
    sorted(folder.glob("model-*.safetensors"))[1].unlink()
    return "lacks 1 of its"


def spoil_cut_shard(folder: Path) -> str:
    shard = sorted(folder.glob("model-*.safetensors"))[0]
    os.truncate(shard, shard.stat().st_size - 100)
    return "not a whole safetensors file"


def spoil_index_json(folder: Path) -> str:
    (folder / "model.safetensors.index.json").write_text('{"weight_map": ')
    return "cannot be read as JSON"


def spoil_index_outside(folder: Path) -> str:
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    index["weight_map"]["lm_head.weight"] = "../elsewhere.safetensors"
    path.write_text(json.dumps(index))
    return "outside its folder"


def spoil_index_lies(folder: Path) -> str:
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    index["weight_map"]["invented"] = next(iter(index["weight_map"].values()))
    path.write_text(json.dumps(index))
    return "lacks the tensor 'invented'"


def spoil_index_incomplete(folder: Path) -> str:
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    index["weight_map"].pop("model.norm.weight")
    path.write_text(json.dumps(index))
    return "no tensor 'model.norm.weight'"


def spoil_shape(folder: Path) -> str:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"intermediate_size": 49}))
    return r"has shape \[48, 32\] where config.json calls for \[49, 32\]"


def spoil_config_missing(folder: Path) -> str:
    (folder / "config.json").unlink()
    return "has no config.json"


def spoil_config_json(folder: Path) -> str:
    (folder / "config.json").write_text("[1, 2]")
    return "holds list where an object belongs"


def spoil_tokenizer_missing(folder: Path) -> str:
    (folder / "tokenizer.json").unlink()
    return "has no tokenizer.json"


def spoil_tokenizer(folder: Path) -> str:
    (folder / "tokenizer.json").write_text('{"version": "1.0", "model": 3}')
    return "not a readable tokenizer"


def spoil_pickle(folder: Path) -> str:
    for path in folder.glob("model*"):
        path.unlink()
    (folder / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    return "pickle .*refused"


def spoil_adapter(folder: Path) -> str:
    for path in folder.glob("model*"):
        path.unlink()
    (folder / "adapter_model.safetensors").touch()
    return "LoRA adapter"


def spoil_weights(folder: Path) -> str:
    for path in folder.glob("model*"):
        path.unlink()
    return "holds no weights"


def spoil_gguf_inside(folder: Path) -> str:
    for path in folder.glob("model*"):
        path.unlink()
    (folder / "m.gguf").touch()
    return "give the file itself"


SPOILERS = [value for name, value in sorted(globals().items()) if name.startswith("spoil_")]


@pytest.mark.parametrize("spoil", SPOILERS, ids=lambda spoil: spoil.__name__.removeprefix("spoil_"))
def test_damaged_folder_is_one_paragraph(tiny_folder: FolderMaker, spoil: Callable[[Path], str]) -> None:
    folder = tiny_folder("llama", shard="20KB")
    with pytest.raises(ModelError, match=spoil(folder)) as caught:
        load_checkpoint(str(folder))
    assert "\n" not in str(caught.value)


def test_tokenizer_of_another_model_is_refused(tiny_folder: FolderMaker) -> None:
    with pytest.raises(ModelError, match="belong to different models"):
        load_checkpoint(str(tiny_folder("llama", vocab_size=500)))


def test_missing_path_lists_near_matches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "smollm2").mkdir()
    (tmp_path / "smollm2-f16.gguf").touch()
    with pytest.raises(ModelError, match=r"did you mean .*smollm2"):
        load_checkpoint(str(tmp_path / "smolm2"))
    with pytest.raises(ModelError, match=r"did you mean .*smollm2-f16\.gguf"):
        load_checkpoint(str(tmp_path / "smollm2-f32.gguf"))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError, match="did you mean embedded"):
        load_checkpoint("embeded")


def test_file_that_is_no_gguf_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.touch()
    with pytest.raises(ModelError, match="no GGUF file"):
        load_checkpoint(str(path))


def test_hub_id_is_downloaded_without_pickles_or_code(
    tiny_folder: FolderMaker, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = tiny_folder("llama")
    asked: dict[str, Any] = {}

    def snapshot(hub_id: str, **options: Any) -> str:
        asked.update(options, hub_id=hub_id)
        return str(folder)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    checkpoint = load_checkpoint("some-org/Some.Model-1B", revision="abc")
    assert checkpoint.folder == folder
    assert (asked["hub_id"], asked["revision"]) == ("some-org/Some.Model-1B", "abc")
    assert not any(pattern.endswith((".bin", ".py", "*")) for pattern in asked["allow_patterns"])
    load_checkpoint("some-org/Some.Model-1B", trust_remote_code=True)
    assert "*.py" in asked["allow_patterns"]


@pytest.mark.parametrize("error", [ConnectionError("no route\nto host"), HFValidationError("x")])
def test_unreachable_hub_says_what_works_offline(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def snapshot(*_: Any, **__: Any) -> str:
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    with pytest.raises(ModelError, match=r"could not be downloaded .*`embedded`.*GGUF") as caught:
        load_checkpoint("some-org/model")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("RepositoryNotFoundError", "has no model"),
        ("GatedRepoError", "accept"),
        ("RevisionNotFoundError", "no revision 'v9'"),
    ],
)
def test_refusals_of_the_hub_are_told_apart(monkeypatch: pytest.MonkeyPatch, name: str, said: str) -> None:
    kind = getattr(errors, name)
    error = kind.__new__(kind, "refused")  # what its constructor wants differs between versions

    def snapshot(*_: Any, **__: Any) -> str:
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    with pytest.raises(ModelError, match=said):
        load_checkpoint("some-org/model", revision="v9")


def test_hub_repository_without_safetensors_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: str(tmp_path))
    with pytest.raises(ModelError, match="only GGUF files or pickles"):
        load_checkpoint("some-org/model-GGUF")


def test_headers_of_a_gguf_file_are_read_without_its_tensors(
    tiny_folder: FolderMaker, tmp_path: Path, vocabulary_fields: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rethink.model.gguf.tensors import GgufModel
    from tests.model.gguf.test_tensors import tensors_of, write_gguf

    tensors, config = tensors_of(tiny_folder("llama"))
    path = write_gguf(tmp_path / "m.gguf", config, tensors, vocabulary_fields("gpt2", "qwen2"))
    whole = load_checkpoint(str(path), cache_dir=tmp_path / "cache")
    monkeypatch.setenv("RETHINK_CACHE", str(tmp_path / "other"))

    def dequantised(self: GgufModel, name: str) -> torch.Tensor:
        raise AssertionError(f"{name} was read")

    monkeypatch.setattr(GgufModel, "__getitem__", dequantised)
    found = load_checkpoint(str(path), headers_only=True)
    assert found.config == whole.config
    assert found.tokenizer.encode("What is 12?") == whole.tokenizer.encode("What is 12?")
    assert not (tmp_path / "other").exists()
