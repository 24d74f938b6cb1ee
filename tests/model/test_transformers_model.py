"""Models outside our decoder's family: log-probabilities, gradients and files are those of `transformers` itself."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

from rethink.errors import ModelError
from rethink.model import transformers_model
from rethink.model.build import build_model
from rethink.model.decoder.decoder import Decoder
from rethink.model.decoder.packing import PackedBatch, PackedGroup, pack
from rethink.model.loading import Checkpoint, load_checkpoint
from rethink.model.saving import save_hf_folder
from rethink.model.tokenizer.tokenizer import Tokenizer
from rethink.model.transformers_model import TransformersModel, context_of
from tests.models import GPT2_SHAPE, NEOX_SHAPE, SHAPE, matrices_and_biases, tiny_model

CONTEXT = 96
ROOM = {**SHAPE, "max_position_embeddings": CONTEXT}
FAMILY: dict[str, tuple[str, dict[str, Any]]] = {
    # Learned positions, dropout in training, a tied head.
    "gpt2": ("GPT2", {**GPT2_SHAPE, "n_positions": CONTEXT}),
    "gpt-neox": ("GPTNeoX", {**NEOX_SHAPE, "max_position_embeddings": CONTEXT}),
    # Soft caps on scores and logits, and a window shorter than the sequences.
    "gemma2": ("Gemma2", {**ROOM, "sliding_window": 8, "final_logit_softcapping": 5.0}),
    "granite": ("Granite", {**ROOM, "logits_scaling": 3.0, "embedding_multiplier": 2.0}),
    # Stored with one tensor per expert, computed with all in one.
    "mixtral": ("Mixtral", {**ROOM, "num_local_experts": 4, "sliding_window": 8}),
    # No attention and no limit of length.
    "mamba": ("Mamba", {"hidden_size": 32, "state_size": 4, "num_hidden_layers": 2}),
}
Maker = Callable[..., Checkpoint]


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def make(tmp_path: Path, small_tokenizer: Tokenizer) -> Maker:
    """Saves a tiny random model as `transformers` does and finds it."""

    def make(family: str, **overrides: Any) -> Checkpoint:
        name, values = FAMILY[family]
        values = {"vocab_size": small_tokenizer.vocab_size + 7} | values | overrides
        model = tiny_model(name, seed=1, mean=matrices_and_biases, **values)
        model.save_pretrained(tmp_path / family)
        small_tokenizer.save(tmp_path / family)
        return load_checkpoint(str(tmp_path / family))

    return make


def build(checkpoint: Checkpoint, dtype: str = "float32") -> TransformersModel:
    model = build_model(checkpoint, dtype, "cpu")
    assert isinstance(model, TransformersModel)
    return model


def plain(checkpoint: Checkpoint) -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(checkpoint.folder, dtype=torch.float32).eval()


def ids_of(size: int, seed: int = 0, vocabulary: int = 1000) -> list[int]:
    generator = torch.Generator().manual_seed(100 * size + seed)
    return torch.randint(vocabulary, (size,), generator=generator).tolist()


def some_groups() -> list[PackedGroup]:
    """Prompts and completions of many lengths; completions that are empty, of one token, and the same twice."""
    return [
        PackedGroup(ids_of(11), [ids_of(20), [], ids_of(1), ids_of(5, 1)]),
        PackedGroup(ids_of(1), [ids_of(9), ids_of(9)]),
        PackedGroup(ids_of(7), []),
    ]


def expected_logprobs(model: Any, groups: Sequence[PackedGroup], temperature: float) -> tuple[Tensor, Tensor]:
    """Log-probabilities and entropies of all completions' tokens, in plain `transformers`, with a graph."""
    chosen, entropies = [], []
    for group in groups:
        for completion in group.completions:
            ids = torch.tensor([[*group.prompt_ids, *completion]])
            all_logprobs = (model(ids, use_cache=False).logits[0] / temperature).log_softmax(-1)
            for place, token in enumerate(completion, start=len(group.prompt_ids)):
                row = all_logprobs[place - 1]
                chosen.append(row[token])
                entropies.append(-(row.exp() * row).sum())
    return torch.stack(chosen), torch.stack(entropies)


def weights_for(batch: PackedBatch) -> Tensor:
    return torch.linspace(-1.0, 2.0, batch.target_tokens)


def weighted(batch: PackedBatch) -> Callable[[Tensor, slice], Tensor]:
    """An objective that is not linear in the log-probabilities and differs by token."""
    weights = weights_for(batch)
    return lambda logprobs, part: (weights[part] * (0.1 * logprobs).exp()).sum()


def gradients_of(model: Any) -> dict[str, Tensor]:
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


# --- against plain transformers ------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("family", FAMILY)
def test_logprobs_are_those_of_the_plain_model(
    make: Maker, family: str, temperature: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transformers_model, "CHUNK_ROWS", 8)
    checkpoint = make(family)
    assert checkpoint.config is None
    batch = pack(some_groups())
    logprobs, entropies = build(checkpoint).completion_logprobs(batch, temperature)
    with torch.no_grad():
        expected = expected_logprobs(plain(checkpoint), some_groups(), temperature)
    assert float(expected[0].std()) > 0.3
    torch.testing.assert_close((logprobs, entropies), expected, rtol=0, atol=1e-5)
    assert not logprobs.requires_grad


@pytest.mark.parametrize("family", FAMILY)
def test_loss_and_gradients_are_those_of_autograd(make: Maker, family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transformers_model, "CHUNK_ROWS", 8)
    checkpoint = make(family)
    batch = pack(some_groups())
    model, other = build(checkpoint), plain(checkpoint)
    loss, logprobs, entropies = model.completion_loss(batch, weighted(batch), 0.7)
    (3 * loss).backward()
    expected, expected_entropies = expected_logprobs(other, some_groups(), 0.7)
    value = weighted(batch)(expected, slice(None))
    (3 * value).backward()
    torch.testing.assert_close(loss.detach(), value.detach(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(logprobs, expected.detach(), rtol=0, atol=1e-5)
    torch.testing.assert_close(entropies, expected_entropies.detach(), rtol=0, atol=1e-5)
    assert not logprobs.requires_grad
    assert not entropies.requires_grad
    actual, wanted = gradients_of(model), gradients_of(other)
    assert set(actual) == set(wanted) == {name for name, _ in model.named_parameters()}
    largest = max(float(g.abs().max()) for g in wanted.values())
    for name, gradient in wanted.items():
        assert float((actual[name] - gradient).abs().max()) < 1e-5 * largest, name


def test_tokens_that_the_model_rules_out_add_nothing_to_the_entropy() -> None:
    logits = torch.tensor([[1.0, -torch.inf, 1.0], [0.0, 0.0, -torch.inf]])
    logprobs, entropies, _ = transformers_model._token_terms(logits, torch.tensor([0, 1]), 1.0)
    torch.testing.assert_close(logprobs, torch.full((2,), 0.5).log())
    torch.testing.assert_close(entropies, torch.full((2,), 2.0).log())


def test_dropout_is_off(make: Maker) -> None:
    model = build(make("gpt2", resid_pdrop=0.5, attn_pdrop=0.5, embd_pdrop=0.5))
    batch = pack(some_groups())
    losses = [model.completion_loss(batch, weighted(batch))[0].item() for _ in range(2)]
    assert losses[0] == losses[1]


def test_bfloat16_computes_near_and_adds_up_gradients_in_fp32(make: Maker) -> None:
    checkpoint = make("gpt-neox")
    batch = pack([PackedGroup(ids_of(6), [ids_of(8, seed) for seed in range(6)])])
    exact, model = build(checkpoint), build(checkpoint, "bfloat16")
    for each in (exact, model):
        loss, logprobs, _ = each.completion_loss(batch, lambda x, _: x.sum())
        assert (loss.dtype, logprobs.dtype) == (torch.float32, torch.float32)
        loss.backward()
    wanted, actual = gradients_of(exact), gradients_of(model)
    for name, parameter in model.named_parameters():
        assert parameter.dtype == actual[name].dtype == torch.bfloat16
        if float(wanted[name].norm()) > 1e-3:  # biases of keys have none but noise
            assert float((actual[name].float() - wanted[name]).norm() / wanted[name].norm()) < 0.1, name


@pytest.mark.parametrize("completions", [[], [[]]])
def test_a_batch_without_tokens_has_no_loss(make: Maker, completions: list[list[int]]) -> None:
    model = build(make("gpt2"))
    loss, logprobs, _ = model.completion_loss(pack([PackedGroup(ids_of(3), completions)]), lambda x, _: x.sum())
    loss.backward()
    assert (loss.item(), logprobs.numel()) == (0.0, 0)
    assert not gradients_of(model)


# --- against our decoder -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("family", "tied"), [("llama", True), ("qwen2", False), ("qwen3", True), ("mistral", False)])
def test_what_the_decoder_computes_is_the_same_here(tiny_folder: Callable[..., Path], family: str, tied: bool) -> None:
    folder = tiny_folder(family, tie_word_embeddings=tied)
    checkpoint = load_checkpoint(str(folder))
    model = build_model(checkpoint, "float32", "cpu", force_transformers=True)
    decoder = build_model(checkpoint, "float32", "cpu")
    assert isinstance(model, TransformersModel)
    assert isinstance(decoder, Decoder)
    assert model.context == decoder.config.max_position_embeddings
    with torch.no_grad():  # weights as large as the fixture's make every difference of rounding large too
        for each in (model, decoder):
            for _, parameter in each.named_parameters():
                parameter.mul_(0.3 if parameter.ndim > 1 else 1.0)
    batch = pack(some_groups())
    wanted, actual = decoder.completion_logprobs(batch, 0.8), model.completion_logprobs(batch, 0.8)
    torch.testing.assert_close(actual, wanted, rtol=0, atol=1e-5)
    bonus = torch.linspace(-0.1, 0.3, batch.target_tokens)
    losses = [each.completion_loss(batch, weighted(batch), 0.8, bonus_C=bonus)[0] for each in (model, decoder)]
    torch.testing.assert_close(losses[0], losses[1], rtol=0, atol=1e-5)
    for loss in losses:
        loss.backward()
    expected = decoder.hf_tensors(gradients_of(decoder))
    got = gradients_of(model)
    assert set(got) == set(expected)
    largest = max(float(g.abs().max()) for g in expected.values())
    for name, gradient in expected.items():
        assert float((got[name] - gradient).abs().max()) < 1e-5 * largest, name


# --- what training does with it ------------------------------------------------------------------------------------


def test_hooks_of_an_optimizer_see_each_gradient_once(make: Maker) -> None:
    model = build(make("gpt2"))
    seen: list[str] = []
    parameters = dict(model.named_parameters())
    assert "lm_head.weight" not in parameters  # tied
    assert len({p.data_ptr() for p in parameters.values()}) == len(parameters)
    for name, parameter in parameters.items():
        assert parameter.is_leaf
        parameter.register_post_accumulate_grad_hook(lambda _, name=name: seen.append(name))
    batch = pack(some_groups())
    loss, *_ = model.completion_loss(batch, weighted(batch))
    assert not seen
    loss.backward()
    assert sorted(seen) == sorted(parameters)


def test_a_clone_is_frozen_and_stays_as_it_was(make: Maker) -> None:
    model = build(make("gpt2"))
    batch = pack(some_groups())
    before, _ = model.completion_logprobs(batch)
    twin = model.clone()
    assert [name for name, _ in twin.named_parameters()] == [name for name, _ in model.named_parameters()]
    assert not any(p.requires_grad for _, p in twin.named_parameters())
    assert all(p.requires_grad for _, p in model.named_parameters())
    with torch.no_grad():
        for _, parameter in model.named_parameters():
            parameter.mul_(1.1)
    assert torch.equal(twin.completion_logprobs(batch)[0], before)
    assert not torch.equal(model.completion_logprobs(batch)[0], before)
    state = twin.module.state_dict()
    assert state["lm_head.weight"].data_ptr() == state["transformer.wte.weight"].data_ptr()


# --- files ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILY)
def test_export_is_loaded_again(make: Maker, family: str, tmp_path: Path) -> None:
    checkpoint = make(family)
    model = build(checkpoint)
    values = {name: 1.5 * p.detach() for name, p in model.named_parameters()}
    save_hf_folder(tmp_path / "out", model.hf_tensors(values), checkpoint.hf_config, checkpoint.tokenizer)
    again = load_checkpoint(str(tmp_path / "out"))
    assert set(again.tensors) == set(checkpoint.tensors)  # the names that others know too
    loaded = dict(build(again).named_parameters())
    assert set(loaded) == set(values)
    assert all(torch.equal(loaded[name], value) for name, value in values.items())
    own = model.hf_tensors()
    assert set(own) == set(checkpoint.tensors)
    assert all(torch.equal(own[name], checkpoint.tensors[name]) for name in own)
    assert not any(t.requires_grad for t in own.values())


def test_incomplete_weights_are_refused(make: Maker) -> None:
    from safetensors.torch import load_file, save_file

    checkpoint = make("gpt-neox")
    path = checkpoint.folder / "model.safetensors"
    tensors = {name: tensor.clone() for name, tensor in load_file(path).items()}
    tensors.pop("gpt_neox.final_layer_norm.weight")
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"lacks 1 of the tensors .*'gpt_neox.final_layer_norm.weight'"):
        build(load_checkpoint(str(checkpoint.folder)))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model_type": "invented"}, r"cannot load .*invented.* set model\.trust_remote_code"),
        ({"intermediate_size": 49}, "cannot load"),
    ],
)
def test_what_transformers_cannot_load_is_one_paragraph(make: Maker, change: dict[str, Any], said: str) -> None:
    checkpoint = make("gpt-neox")
    path = checkpoint.folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ModelError, match=said) as caught:
        build(load_checkpoint(str(checkpoint.folder)))
    assert "\n" not in str(caught.value)


def test_tokenizer_of_another_model_is_refused(make: Maker) -> None:
    with pytest.raises(ModelError, match="belong to different models"):
        build(make("gpt2", vocab_size=500))


# --- context -------------------------------------------------------------------------------------------------------


def test_context_is_used_to_the_last_token_and_no_further(make: Maker) -> None:
    model = build(make("gpt2"))
    assert model.context == CONTEXT
    prompt = ids_of(CONTEXT - 5)
    model.completion_logprobs(pack([PackedGroup(prompt, [ids_of(6)])]))  # the last token is no input
    with pytest.raises(ModelError, match=f"a sequence of {CONTEXT + 1} tokens .* context is {CONTEXT}"):
        model.completion_logprobs(pack([PackedGroup(prompt, [ids_of(7)])]))


def test_context_of_other_configurations() -> None:
    assert context_of(transformers.BloomConfig()) > 10**9
    assert context_of(transformers.MptConfig(max_seq_len=70)) == 70
    factors = {"short_factor": [1.0] * 4, "long_factor": [2.0] * 4, "rope_theta": 1e4}
    scaled = transformers.Phi3Config(
        **SHAPE,
        pad_token_id=0,
        original_max_position_embeddings=48,
        rope_parameters={"rope_type": "longrope", **factors},
    )
    assert context_of(scaled) == 48
