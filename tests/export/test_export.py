"""`rethink export`: what is written comes back bit for bit, describes the same model, and is whole or not there."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
import yaml
from tokenizers import normalizers

from rethink.cli import main
from rethink.errors import ModelError, StorageFailure, UsageError
from rethink.eval.backend import fingerprint
from rethink.export import exporting as export_run
from rethink.export.exporting import export_model
from rethink.export.model_card import _objective
from rethink.model.gguf.tensors import GgufModel
from rethink.model.loading import load_checkpoint
from rethink.model.tokenizer.tokenizer import Tokenizer
from rethink.store.as_trained import AsTrained
from rethink.store.integrity import write_sealed
from rethink.store.run_folder import RunFolder
from tests.model.tokenizer.test_gguf_tokenizer import GOLDEN
from tests.models import llama3_rope

FolderMaker = Callable[..., Path]
FAMILIES: list[tuple[str, dict[str, Any]]] = [
    ("llama", {}),
    ("llama", {"tie_word_embeddings": True}),
    ("llama", {"rope_parameters": llama3_rope(5e5)}),
    ("qwen2", {"head_dim": 16}),
    ("qwen3", {"head_dim": 16}),
    ("mistral", {"sliding_window": 64}),
    ("mistral", {"sliding_window": None}),
]


def bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().view(torch.uint8)


@pytest.mark.parametrize(("family", "values"), FAMILIES)
@pytest.mark.parametrize("dtype", ["f16", pytest.param("bf16", marks=pytest.mark.slow)])
def test_a_gguf_file_comes_back_bit_for_bit(
    tiny_folder: FolderMaker, tmp_path: Path, family: str, values: dict[str, Any], dtype: str
) -> None:
    folder = tiny_folder(family, **values)
    first = load_checkpoint(str(folder))
    done = export_model(str(folder), tmp_path / "m.gguf", target="gguf", dtype=dtype)
    again = load_checkpoint(str(done.path), cache_dir=tmp_path / "cache")
    assert first.config is not None
    assert again.config == export_run.as_gguf_says(first.config)
    kind = {"f16": torch.float16, "bf16": torch.bfloat16}[dtype]
    assert set(again.tensors) == set(first.tensors)
    for name, tensor in first.tensors.items():
        assert torch.equal(bits(again.tensors[name]), bits(tensor.to(kind) if tensor.ndim > 1 else tensor.float()))
    assert all(again.tokenizer.encode(text) == first.tokenizer.encode(text) for text in GOLDEN["texts"])
    assert again.tokenizer.chat_template == first.tokenizer.chat_template
    assert again.tokenizer.end_of_turn_ids == first.tokenizer.end_of_turn_ids
    assert done.nbytes == done.path.stat().st_size


def test_q8_0_is_within_half_a_step_of_each_block(tiny_folder: FolderMaker, tmp_path: Path) -> None:
    folder = tiny_folder("llama", intermediate_size=64)
    done = export_model(str(folder), tmp_path / "m.gguf", target="gguf", dtype="q8_0")
    assert done.notes == ()
    back, first = GgufModel(done.path), load_checkpoint(str(folder)).tensors
    for name, tensor in first.items():
        if tensor.ndim == 1:
            assert torch.equal(back[name], tensor)
            continue
        blocks, found = tensor.float().reshape(-1, 32), back[name].reshape(-1, 32)
        # Rows change places within heads, whole, so that blocks stay blocks.
        step = blocks.abs().amax(1, keepdim=True) / 127
        in_f16 = 127 * 2**-11  # the step itself is stored in F16
        assert bool(((found - blocks).abs() <= (0.5 + in_f16) * step).all()), name


def test_rows_that_are_no_whole_blocks_stay_f16_and_it_is_said(tiny_folder: FolderMaker, tmp_path: Path) -> None:
    done = export_model(str(tiny_folder("llama")), tmp_path / "m.gguf", target="gguf", dtype="q8_0")
    assert any("no multiple of 32" in note for note in done.notes)
    kinds = {t.name: t.tensor_type.name for t in gguf.GGUFReader(done.path).tensors}
    assert (kinds["blk.0.ffn_down.weight"], kinds["blk.0.attn_q.weight"]) == ("F16", "Q8_0")


def test_a_file_from_a_gguf_keeps_its_metadata(
    tiny_folder: FolderMaker, tmp_path: Path, vocabulary_fields: Callable[[str, str], dict[str, Any]]
) -> None:
    from rethink.model.gguf.writer import write_gguf

    checkpoint = load_checkpoint(str(tiny_folder("llama")))
    assert checkpoint.config is not None
    fields = vocabulary_fields("gpt2", "refact") | {"tokenizer.ggml.seperator_token_id": 5}
    size = checkpoint.config.vocab_size - len(fields["tokenizer.ggml.tokens"])
    fields["tokenizer.ggml.tokens"] = fields["tokenizer.ggml.tokens"] + [f"[PAD{i}]" for i in range(size)]
    fields["tokenizer.ggml.token_type"] = fields["tokenizer.ggml.token_type"] + [5] * size
    general = {"general.name": "It", "general.license": "mit", "general.languages": ["en", "fr"]}
    write_gguf(tmp_path / "a.gguf", checkpoint.config, checkpoint.tensors, fields, general, "f16")
    export_model(str(tmp_path / "a.gguf"), tmp_path / "b.gguf", target="gguf", dtype="bf16")
    before, after = GgufModel(tmp_path / "a.gguf").fields, GgufModel(tmp_path / "b.gguf").fields
    same = [key for key in before if key.startswith("tokenizer.") or key in general]
    assert all(before[key] == after[key] for key in same)
    assert after["tokenizer.ggml.pre"] == "refact"  # smollm cuts alike, and would be the name for a folder


def test_what_f16_cannot_hold_is_refused_and_nothing_is_left(tiny_folder: FolderMaker, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = tiny_folder("llama")
    weights = load_file(folder / "model.safetensors")
    weights["model.layers.0.mlp.up_proj.weight"][0, 0] = 1e5
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    out = tmp_path / "out" / "m.gguf"
    with pytest.raises(ModelError, match="--dtype bf16"):
        export_model(str(folder), out, target="gguf")
    assert list(out.parent.iterdir()) == []
    assert export_model(str(folder), out, target="gguf", dtype="bf16").path == out


def test_the_disk_that_is_full_is_said_before_and_during(
    tiny_folder: FolderMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, out = tiny_folder("llama"), tmp_path / "m.gguf"

    def short(*_: Any) -> None:
        raise OSError("12 requested and 3 written")

    monkeypatch.setattr(gguf.GGUFWriter, "write_tensor_data", short)
    with pytest.raises(StorageFailure, match="no space is left"):
        export_model(str(folder), out, target="gguf")
    monkeypatch.setattr(export_run.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1000})())
    with pytest.raises(StorageFailure, match="GB free"):
        export_model(str(folder), out, target="gguf")
    assert not out.exists()


def test_a_folder_loads_in_transformers_with_the_same_logits(tiny_folder: FolderMaker, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = tiny_folder("qwen3")
    done = export_model(str(folder), tmp_path / "out", target="hf")
    assert {"README.md", "config.json", "model.safetensors", "tokenizer.json"} <= set(done.files)
    ids = torch.arange(3, 60)[None]
    with torch.no_grad():
        logits = [AutoModelForCausalLM.from_pretrained(f)(ids).logits for f in (folder, done.path)]
    assert torch.equal(*logits)
    assert (
        AutoTokenizer.from_pretrained(done.path).chat_template == load_checkpoint(str(folder)).tokenizer.chat_template
    )


# --- runs and cards --------------------------------------------------------------------------------------------------

RECIPE = """\
name: sums
kind: grpo
description: Adds | numbers.
steps: 3
model: {model: 0, path: embedded}
tasks:
  - {kind: hub, name: openai/gsm8k, params: {max: 3}}
rollout: {group_size: 4, prompts_per_batch: 2}
reward: {parts: [{name: accuracy, weight: 1.0}]}
algorithm: {beta: 0.001}
"""


def evaluated(accuracy: float) -> dict[str, Any]:
    return {"accuracy": accuracy, "accuracy_ci": [accuracy - 0.1, accuracy + 0.1], "format": 0.5, "length_mean": 9.0,
            "truncated": 0.0, "n": 200, "step": 3}  # fmt: skip


@pytest.fixture
def run(tiny_folder: FolderMaker, tmp_path: Path) -> RunFolder:
    """A finished run, with a tiny model for its result."""
    checkpoint = load_checkpoint(str(tiny_folder("llama")))
    environment = {"processor": {"name": "Some CPU"}, "cores": 2}
    run = RunFolder.create(
        tmp_path / "sums", recipe_yaml=RECIPE, recipe_hash="abc" * 20, environment=environment, choices={}
    )

    def save(folder: Path) -> None:
        from rethink.model.saving import save_hf_folder

        save_hf_folder(folder, checkpoint.tensors, checkpoint.hf_config, checkpoint.tokenizer)

    record = AsTrained(kind="grpo", recipe="sums", recipe_hash=run.recipe_hash)
    run.export_model(save, record)
    run.best_model(save, record, {"step": 2, "accuracy": 0.9})
    sample = {"question": "1 + 1", "completion": "```` fence \x1b[31m <b>2</b>"}
    run.write_summary(
        {"finished": True, "steps": 3, "tokens_total": 12345, "wall_s": 120.0, "before": evaluated(0.3),
         "after": evaluated(0.8), "samples_after": [sample]}
    )  # fmt: skip
    return run


def card_of(folder: Path) -> tuple[dict[str, Any], str]:
    text = (folder / "README.md").read_text("utf-8")
    _, front, body = text.split("---\n", 2)
    return yaml.safe_load(front), body


def test_the_card_of_a_run_says_what_it_was(run: RunFolder, tmp_path: Path) -> None:
    assert load_checkpoint(str(run.path)).folder == run.model_path
    done = export_model(str(run.path), tmp_path / "out", target="hf")
    front, body = card_of(done.path)
    assert front["base_model"] == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert front["license"] == "apache-2.0"
    assert front["datasets"] == ["openai/gsm8k"]
    assert {"rethink", "grpo"} <= set(front["tags"])
    (result,) = front["model-index"][0]["results"]
    assert result["metrics"][0] == {"type": "accuracy", "value": 0.8}
    for said in ("80.0 % (70.0 – 90.0)", "openai/gsm8k (hub)", "Adds \\| numbers.", "## Limits", "apache-2.0", RECIPE,
                 "with the objective `grpo` of DeepSeekMath (arXiv 2402.03300)", "| group size | 4 |",
                 "12,345", "Some CPU"):  # fmt: skip
        assert said in body
    assert "\x1b" not in body
    assert "`````text" in body  # longer than the fence within


def test_the_card_names_the_objective() -> None:
    said = {kind: _objective({"algorithm": {"type": kind}}) for kind in ("gspo", "gone")}
    assert said["gspo"].startswith("the objective `gspo` of GSPO (arXiv 2507.18071), equations 5 and 7")
    assert said["gone"] == "the objective `gone`"


def test_the_hub_accepts_the_front_matter(run: RunFolder, tmp_path: Path) -> None:
    from huggingface_hub import ModelCard

    export_model(str(run.path), tmp_path / "out", target="hf")
    data = ModelCard.load(tmp_path / "out" / "README.md").data
    assert (data.model_name, data.pipeline_tag) == ("sums", "text-generation")
    assert [result.metric_value for result in data.eval_results] == [0.8]


def test_the_best_model_is_not_given_the_results_of_the_last(run: RunFolder, tmp_path: Path) -> None:
    export_model(str(run.best_path), tmp_path / "out", target="hf")
    front, body = card_of(tmp_path / "out")
    assert "model-index" not in front
    assert "after step 2, the best" in body


def test_evaluations_of_these_weights_go_into_the_card(run: RunFolder, tmp_path: Path) -> None:
    folder = tmp_path / "evals"
    folder.mkdir()
    details = {"gsm8k": {"pass@1": 0.25, "pass@1_ci": [0.2, 0.3], "cons@k": None, "metric": "accuracy", "n": 64, "k": 1,
               "truncated": 0.1, "length_mean": 90.0, "note": "", "temperature": 0.0, "top_p": 1.0, "data": "file",
               "max_new_tokens": 400, "limited_by": "asked", "prompting": "default", "grader": "math"}}  # fmt: skip
    (folder / "details.json").write_text(json.dumps(details))
    record = {
        "backend": {"backend": "embedded", "model": "m", "weights": fingerprint(run.model_path)},
        "benchmarks": {},
    }
    write_sealed(folder / "evaluation.json", record)
    export_model(str(run.path), tmp_path / "out", target="hf", evaluation=folder)
    front, body = card_of(tmp_path / "out")
    assert "| gsm8k | accuracy | 25.0 | 20.0 – 30.0 |" in body
    assert [r["metrics"][0]["value"] for r in front["model-index"][0]["results"]] == [0.8, 0.25]

    record["backend"]["weights"] = "others"
    write_sealed(folder / "evaluation.json", record)
    with pytest.raises(UsageError, match="other weights"):
        export_model(str(run.path), tmp_path / "out2", target="hf", evaluation=folder)
    with pytest.raises(UsageError, match="no folder of `rethink eval"):
        export_model(str(run.path), tmp_path / "out2", target="hf", evaluation=tmp_path)


def test_a_run_on_a_run_goes_back_to_the_first_model(run: RunFolder, tmp_path: Path) -> None:
    from rethink.export.exported import Origin, origin_of

    recipe = f"name: second\nmodel: {{path: {run.model_path}}}\n"
    second = RunFolder.create(tmp_path / "second", recipe_yaml=recipe, recipe_hash="d" * 60, environment={}, choices={})
    assert origin_of(str(second.path), second) == Origin("HuggingFaceTB/SmolLM2-135M-Instruct", "apache-2.0")


def test_the_licence_of_a_hub_model_is_read_from_its_downloaded_card(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    from rethink.export.exported import Origin, origin_of

    (tmp_path / "README.md").write_text("---\nlicense: llama3.2\n---\n")
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_: str(tmp_path / "README.md"))
    assert origin_of("org/model") == Origin("org/model", "llama3.2")
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_: None)
    assert origin_of("org/model") == Origin("org/model", None)
    assert origin_of("nowhere") == Origin(None, None)


def test_a_model_with_a_card_keeps_it_and_passes_its_licence_on(tiny_folder: FolderMaker, tmp_path: Path) -> None:
    folder = tiny_folder("llama")
    (folder / "README.md").write_text("---\nlicense: mit\nbase_model: org/base\n---\n# Mine\n")
    export_model(str(folder), tmp_path / "out", target="hf")
    assert (tmp_path / "out" / "README.md").read_text() == (folder / "README.md").read_text()
    export_model(str(folder), tmp_path / "m.gguf", target="gguf")
    fields = GgufModel(tmp_path / "m.gguf").fields
    assert fields["general.license"] == "mit"
    assert fields["general.base_model.0.repo_url"] == "https://huggingface.co/org/base"


def test_an_unknown_licence_is_said_to_be_unknown(tiny_folder: FolderMaker, tmp_path: Path) -> None:
    done = export_model(str(tiny_folder("llama")), tmp_path / "out", target="hf")
    assert any("licence is not known" in note for note in done.notes)
    front, body = card_of(done.path)
    assert "license" not in front
    assert "look it up" in body


# --- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("out", "options", "said"),
    [
        ("there", {"target": "hf"}, "nothing is overwritten"),
        ("there.gguf", {"target": "gguf"}, "nothing is overwritten"),
        ("x.bin", {"target": "gguf"}, "does not end in .gguf"),
        ("x", {"target": "hf", "dtype": "q8_0"}, "does not go with --to hf"),
        ("x.gguf", {"target": "gguf", "evaluation": Path("e")}, "use --to hf"),
    ],
)
def test_requests_are_refused_before_a_model_is_read(
    tmp_path: Path, out: str, options: dict[str, Any], said: str
) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there.gguf").write_text("mine")
    with pytest.raises(UsageError, match=said):
        export_model("no such model", tmp_path / out, **options)
    assert (tmp_path / "there.gguf").read_text() == "mine"


def test_a_tokenizer_that_gguf_cannot_express_is_refused(tiny_folder: FolderMaker, tmp_path: Path) -> None:
    folder = tiny_folder("llama")
    backend = load_checkpoint(str(folder)).tokenizer.backend
    backend.normalizer = normalizers.Lowercase()
    Tokenizer(backend, {}).save(folder)
    with pytest.raises(ModelError, match="cannot be written into a GGUF file"):
        export_model(str(folder), tmp_path / "m.gguf", target="gguf")
    assert export_model(str(folder), tmp_path / "out", target="hf").files


def test_models_that_a_gguf_would_misrepresent_are_refused(tiny_folder: FolderMaker, tmp_path: Path) -> None:
    folder = tiny_folder("llama")
    (folder / "reward_model.json").write_text("{}")
    with pytest.raises(ModelError, match="reward model"):
        export_model(str(folder), tmp_path / "out", target="hf")
    odd = llama3_rope(5e5) | {"high_freq_factor": 8.0}
    with pytest.raises(ModelError, match=r"cannot say .* rope_scaling"):
        export_model(str(tiny_folder("llama", "odd", rope_parameters=odd)), tmp_path / "m.gguf", target="gguf")
    assert not (tmp_path / "m.gguf").exists()


def test_a_run_without_a_model_is_named(run: RunFolder, tmp_path: Path) -> None:
    import shutil

    shutil.rmtree(run.model_path)
    with pytest.raises(UsageError):
        export_model(str(run.path), tmp_path / "out", target="hf")
    with pytest.raises(ModelError, match="no exported model yet"):
        load_checkpoint(str(run.path))


def test_the_command_says_sizes_and_notes(
    tiny_folder: FolderMaker, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = str(tiny_folder("llama")), tmp_path / "m.gguf"
    assert main.main(["export", folder, "--to", "gguf", "--out", str(out), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["to"], said["dtype"], said["bytes"]) == ("gguf", "f16", out.stat().st_size)
    assert main.main(["export", folder, "--to", "gguf", "--out", str(out)]) == 2
    assert "nothing is overwritten" in capsys.readouterr().err
    assert main.main(["export", folder, "--out", str(tmp_path / "out")]) == 0
    assert "Hugging Face folder, as stored" in capsys.readouterr().out
