"""Every field of a `config.json` that changes logits: ours are those of `transformers`, or the field is named."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from rethink.errors import ModelError
from rethink.model.build import build_model
from rethink.model.decoder.decoder import Decoder
from rethink.model.decoder.packing import PackedGroup, pack
from rethink.model.loading import load_checkpoint
from rethink.model.transformers_model import TransformersModel
from tests.models import SHAPE, llama3_rope, tiny_model

FAMILIES = ["Llama", "Qwen2", "Qwen3", "Mistral"]
IDS = list(range(3, 43))
LLAMA3 = {key: value for key, value in llama3_rope().items() if key != "rope_theta"}
WITHOUT_CONTEXT = {key: value for key, value in LLAMA3.items() if key != "original_max_position_embeddings"}
LINEAR = {"rope_type": "linear", "factor": 4.0}


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory, small_tokenizer: Any) -> dict[str, Path]:
    """A folder of each family, with an untied head."""
    out = {}
    for family in FAMILIES:
        values = SHAPE | {
            "vocab_size": small_tokenizer.vocab_size,
            "max_position_embeddings": 128,
            "tie_word_embeddings": False,
        }
        out[family] = tmp_path_factory.mktemp(family)
        tiny_model(family, seed=3, **values).save_pretrained(out[family])
        small_tokenizer.save(out[family])
    return out


@pytest.fixture
def folder_of(folders: dict[str, Path], tmp_path: Path) -> Callable[..., Path]:
    """A copy of a family's folder, its configuration changed; None removes a field."""

    def make(family: str, changes: dict[str, Any]) -> Path:
        folder = shutil.copytree(folders[family], tmp_path / "model")
        config = json.loads((folder / "config.json").read_text())
        for key in ("rope_parameters", "layer_types"):
            config.pop(key, None)
        config |= {"rope_theta": 100.0} | changes
        (folder / "config.json").write_text(json.dumps({k: v for k, v in config.items() if v is not ...}))
        return folder

    return make


def theirs(folder: Path) -> torch.Tensor:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        logits: torch.Tensor = model(torch.tensor([IDS])).logits[0]
    return logits


def ours(folder: Path) -> torch.Tensor:
    model = build_model(load_checkpoint(str(folder)), "float32", "cpu")
    if isinstance(model, Decoder):
        return model.logits(pack([PackedGroup(IDS, [])]))
    assert isinstance(model, TransformersModel)
    with torch.no_grad():
        return model.logits(torch.tensor([IDS]), len(IDS))[0][0]


ROPE: list[dict[str, Any]] = [
    {},
    {"rope_theta": 5000.0},
    {"rope_theta": ...},
    {"rope_scaling": LLAMA3},
    {"rope_scaling": LLAMA3 | {"rope_theta": 7000.0}},
    {"rope_parameters": LLAMA3 | {"rope_theta": 7000.0}},
    # both places: which one wins, and whose base
    {"rope_scaling": LLAMA3, "rope_parameters": {"rope_type": "default", "rope_theta": 7000.0}},
    {"rope_scaling": LINEAR, "rope_parameters": {"rope_type": "default", "rope_theta": 7000.0}, "rope_theta": ...},
    {"rope_scaling": {"rope_type": "default"}, "rope_parameters": LLAMA3 | {"rope_theta": 7000.0}},
    {"rope_scaling": None, "rope_parameters": LLAMA3 | {"rope_theta": 7000.0}},
    {"rope_scaling": {}, "rope_parameters": LLAMA3 | {"rope_theta": 7000.0}},
    # the context that it was trained with: at the top, in the object, in both, nowhere
    {"rope_scaling": WITHOUT_CONTEXT, "original_max_position_embeddings": 32},
    {"rope_scaling": LLAMA3, "original_max_position_embeddings": 16},
    {"rope_scaling": WITHOUT_CONTEXT},
    {"rope_scaling": LLAMA3 | {"factor": 2.0}},
    {"rope_scaling": LLAMA3 | {"low_freq_factor": 0.5}},
    {"rope_scaling": LLAMA3 | {"high_freq_factor": 8.0}},
    {"rope_scaling": LINEAR},
    {"rope_scaling": {"type": "linear", "factor": 4.0}},
    {"rope_scaling": {"rope_type": "dynamic", "factor": 4.0}, "max_position_embeddings": 64},
    {"rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}},
    {"rope_scaling": {"rope_type": "yarn", "factor": 4.0}, "original_max_position_embeddings": 16},
    {"partial_rotary_factor": 0.5},
]
SHAPES: list[dict[str, Any]] = [
    {"rms_norm_eps": 0.3},
    {"hidden_act": "gelu"},
    {"hidden_act": "swish"},
    {"num_hidden_layers": 1},  # the file holds more
    {"sliding_window": 8},
    {"sliding_window": None},
    {"sliding_window": 8, "use_sliding_window": True, "max_window_layers": 0},
    {"sliding_window": 8, "use_sliding_window": True, "max_window_layers": 1},
    {"sliding_window": 8, "use_sliding_window": True, "max_window_layers": 2},
    {"sliding_window": 8, "use_sliding_window": True, "max_window_layers": ...},
    {"sliding_window": 8, "use_sliding_window": False, "max_window_layers": 0},
    {"sliding_window": None, "use_sliding_window": True, "max_window_layers": 0},
    {"sliding_window": 8, "use_sliding_window": True, "layer_types": ["full_attention"] * 2, "max_window_layers": 0},
    {"sliding_window": 8, "use_sliding_window": True, "layer_types": ["full_attention", "sliding_attention"]},
    {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16},
    {"attention_dropout": 0.5},
]


CASES = [(f, c) for f in ("Llama", "Qwen3") for c in ROPE] + [(f, c) for f in FAMILIES for c in SHAPES]


@pytest.mark.parametrize(
    ("family", "changes"), CASES, ids=[f"{f}-{json.dumps(c, default=lambda _: '-')}" for f, c in CASES]
)
def test_logits_are_those_of_transformers_or_the_field_is_named(
    folder_of: Callable[..., Path], family: str, changes: dict[str, Any]
) -> None:
    folder = folder_of(family, changes)
    try:
        found = ours(folder)
    except ModelError as error:  # the decoder computes no window, and nobody some other things
        said = str(error).replace("_", " ")
        assert any(key.replace("_", " ") in said for key in changes) or "layers.1" in said or "q norm" in said
        return
    torch.testing.assert_close(found, theirs(folder), rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    "changes", [*ROPE[1:8], *ROPE[9:15]], ids=lambda changes: json.dumps(changes, default=lambda _: "-")
)
def test_rope_of_the_decoder_is_not_refused_and_matters(
    folder_of: Callable[..., Path], changes: dict[str, Any], folders: dict[str, Path]
) -> None:
    folder = folder_of("Llama", changes)
    found = ours(folder)
    shutil.rmtree(folder)
    plain = ours(folder_of("Llama", {}))
    assert float((found - plain).abs().max()) > 1e-3


@pytest.mark.parametrize("family", ["Llama", "Qwen2", "Qwen3"])  # transformers refuses it for Mistral
def test_null_key_value_heads_are_as_many_as_heads(tmp_path: Path, small_tokenizer: Any, family: str) -> None:
    values = SHAPE | {"vocab_size": small_tokenizer.vocab_size, "num_key_value_heads": 4, "num_hidden_layers": 1}
    tiny_model(family, seed=3, **values).save_pretrained(tmp_path)
    small_tokenizer.save(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text()) | {"num_key_value_heads": None}
    (tmp_path / "config.json").write_text(json.dumps(config))
    torch.testing.assert_close(ours(tmp_path), theirs(tmp_path), rtol=0, atol=1e-4)


@pytest.mark.parametrize("family", ["Qwen2", "Qwen3"])
@pytest.mark.parametrize("changes", [{"max_window_layers": 2}, {"layer_types": ["full_attention"] * 2}])
def test_a_window_that_no_layer_has_limits_nothing(
    folder_of: Callable[..., Path], family: str, changes: dict[str, Any]
) -> None:
    folder = folder_of(family, {"sliding_window": 8, "use_sliding_window": True} | changes)
    assert load_checkpoint(str(folder)).config.sliding_window is None  # type: ignore[union-attr]
    torch.testing.assert_close(ours(folder), theirs(folder), rtol=0, atol=1e-4)


# --- a head beside the embedding ----------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("head", ["random", "near", "equal", "none"])
def test_a_head_in_the_file_beside_the_tied_flag(
    folder_of: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], family: str, head: str
) -> None:
    folder = folder_of(family, {"tie_word_embeddings": True})
    tensors = load_file(folder / "model.safetensors")
    embedding = tensors["model.embed_tokens.weight"]
    noise = torch.randn(embedding.shape, generator=torch.Generator().manual_seed(1))
    tensors["lm_head.weight"] = {
        "random": noise * 0.2, "near": embedding + 0.01 * noise, "equal": embedding.clone(), "none": embedding,
    }[head]  # fmt: skip
    if head == "none":
        del tensors["lm_head.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    expected = theirs(folder)
    capsys.readouterr()
    checkpoint = load_checkpoint(str(folder))
    differs = head in ("random", "near")
    assert ("lm_head.weight" in capsys.readouterr().err) is differs
    torch.testing.assert_close(ours(folder), expected, rtol=0, atol=1e-4)
    assert checkpoint.hf_config["tie_word_embeddings"] is not differs
    assert ("lm_head.weight" in checkpoint.tensors) is differs


def test_an_exported_model_keeps_such_a_head(folder_of: Callable[..., Path], tmp_path: Path) -> None:
    from rethink.model.saving import save_hf_folder

    folder = folder_of("Llama", {"tie_word_embeddings": True})
    checkpoint = load_checkpoint(str(folder))
    save_hf_folder(tmp_path / "out", checkpoint.tensors, checkpoint.hf_config, checkpoint.tokenizer)
    assert torch.equal(theirs(tmp_path / "out"), theirs(folder))


# --- what is not computed ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"attn_logit_softcapping": 50.0}, "attn_logit_softcapping"),
        ({"final_logit_softcapping": 30.0}, "final_logit_softcapping"),
        ({"residual_multiplier": 0.22}, "residual_multiplier"),
        ({"logits_scaling": 8.0}, "logits_scaling"),
        ({"no_rope_layers": [1, 0]}, "no_rope_layers"),
        ({"num_local_experts": 8}, "num_local_experts"),
        ({"use_qk_norm": True}, "use_qk_norm"),
        ({"attention_chunk_size": 16}, "attention_chunk_size"),
        ({"rope_scaling": {"rope_type": "default", "llama_4_scaling_beta": 0.1}}, "llama_4_scaling_beta"),
        ({"is_causal": False}, "is_causal"),
        ({"rms_norm_eps": float("nan")}, "rms_norm_eps"),
        ({"rope_theta": float("inf")}, "rope_theta"),
        ({"rope_theta": -1.0}, "rope_theta"),
        ({"rope_theta": None}, "rope_theta"),
        ({"num_hidden_layers": 3_000_000}, "num_layers"),
        ({"hidden_size": 10**18}, "hidden_size"),
        ({"num_hidden_layers": 2.5}, "num_hidden_layers"),
        ({"num_hidden_layers": True}, "num_hidden_layers"),
        ({"intermediate_size": 0}, "intermediate_size"),
        ({"tie_word_embeddings": "false"}, "tie_word_embeddings"),
        ({"rope_scaling": "linear"}, "rope_scaling"),
        ({"rope_scaling": LLAMA3 | {"factor": float("nan")}}, "factor"),
        ({"rope_scaling": LLAMA3, "original_max_position_embeddings": None}, "original_max_position_embeddings"),
        ({"layer_types": 5}, "layer_types"),
    ],
)
def test_a_field_that_asks_for_something_else_is_refused_by_name(
    folder_of: Callable[..., Path], changes: dict[str, Any], named: str
) -> None:
    with pytest.raises(ModelError, match=named) as caught:
        load_checkpoint(str(folder_of("Llama", changes)))
    assert "\n" not in str(caught.value)


def test_other_fields_that_nothing_reads_are_named_once(
    folder_of: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = folder_of("Llama", {"norm_kind": "rms", "softness": None, "attn_logit_softcapping": None})
    load_checkpoint(str(folder))
    load_checkpoint(str(folder))
    found = [line for line in capsys.readouterr().err.splitlines() if line.startswith("rethink:")]
    assert len(found) == 1
    assert found[0].endswith("fields that are not used: 'norm_kind'")


def test_a_tensor_that_nothing_computes_is_refused_by_name(folder_of: Callable[..., Path]) -> None:
    folder = folder_of("Llama", {})
    tensors = load_file(folder / "model.safetensors")
    old = tensors | {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}
    save_file(old, folder / "model.safetensors", metadata={"format": "pt"})
    load_checkpoint(str(folder))
    odd = tensors | {"model.layers.0.self_attn.q_proj.bias": torch.ones(32)}
    save_file(odd, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"layers\.0\.self_attn\.q_proj\.bias"):
        load_checkpoint(str(folder))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("changes", [{}, {"hidden_act": "gelu"}], ids=["ours", "transformers"])
def test_weights_that_are_not_finite_are_refused_by_name(
    folder_of: Callable[..., Path], changes: dict[str, Any], value: float
) -> None:
    folder = folder_of("Llama", changes)
    tensors = load_file(folder / "model.safetensors")
    tensors["model.layers.1.mlp.down_proj.weight"][3, 4] = value
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"layers\.1\.mlp\.down_proj\.weight.*not finite"):
        ours(folder)
