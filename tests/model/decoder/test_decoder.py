"""The decoder against `transformers`: logits, and GRPO's loss with all gradients over shared prefixes."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import transformers
from torch import Tensor

from rethink.algorithms.aggregation import token_weights
from rethink.algorithms.losses import Tokens, token_loss
from rethink.errors import ModelError
from rethink.kernels import attention, elementwise, head
from rethink.kernels.head import TokenObjective
from rethink.model.decoder.decoder import Decoder
from rethink.model.decoder.hf_config import expected_shapes, parse_hf_config
from rethink.model.decoder.packing import PackedBatch, PackedGroup, pack
from rethink.model.loading import Checkpoint
from rethink.recipe.schema import AlgorithmSection
from tests.models import SHAPE, decoder_of, llama3_rope, tiny_model

VOCABULARY = 61
FAMILY: list[tuple[str, dict[str, Any]]] = [
    ("Llama", {"tie_word_embeddings": True}),
    ("Llama", {"rope_parameters": llama3_rope()}),
    ("Qwen2", {}),
    ("Qwen2", {"tie_word_embeddings": True}),
    ("Qwen3", {"tie_word_embeddings": True}),
    ("Qwen3", {"head_dim": 12}),
    ("Mistral", {"sliding_window": 100}),
    ("Mistral", {"tie_word_embeddings": True, "sliding_window": None, "num_key_value_heads": 1}),
]
IDS = ["llama", "llama3-rope", "qwen2", "qwen2-tied", "qwen3-tied", "qwen3", "mistral", "mistral-tied"]
NORMS = {"LlamaRMSNorm", "Qwen2RMSNorm", "Qwen3RMSNorm", "MistralRMSNorm"}
CLIP_LOW, CLIP_HIGH, BETA, TEMPERATURE = 0.2, 0.3, 0.1, 0.8
SETTINGS = AlgorithmSection(clip_low=CLIP_LOW, clip_high=CLIP_HIGH, beta=BETA)


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """Products this small only wait for each other on more."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def make_hf(family: str, dtype: torch.dtype = torch.float32, **overrides: Any) -> Any:
    """A tiny model of `transformers` with random weights, norms and biases."""
    values = SHAPE | {
        "vocab_size": VOCABULARY,
        "max_position_embeddings": 128,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": False,
        "attn_implementation": "sdpa",
    }
    model = tiny_model(family, seed=1, **(values | overrides)).to(dtype)
    if dtype == torch.float64:
        for module in model.modules():  # these compute in fp32 whatever the model's type
            if type(module).__name__ in NORMS:
                module.forward = _exact_norm(module)
    return model


def _exact_norm(module: Any) -> Any:
    return lambda x: F.rms_norm(x, module.weight.shape, module.weight, module.variance_epsilon)


def some_ids(*sizes: int, seed: int = 0, vocabulary: int = VOCABULARY) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(vocabulary, (size,), generator=generator).tolist() for size in sizes]


# --- logits ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("family", "overrides"), FAMILY, ids=IDS)
def test_logits_equal_those_of_transformers(family: str, overrides: dict[str, Any]) -> None:
    model = make_hf(family, **overrides)
    decoder = decoder_of(model)
    prompt, completion = some_ids(50, 40)
    batch = pack([PackedGroup(prompt, [[*completion, 0]])])
    with torch.no_grad():
        expected = model(torch.tensor([prompt + completion])).logits[0]
    assert float(expected.std()) > 0.5
    torch.testing.assert_close(decoder.logits(batch), expected, rtol=0, atol=1e-4)


def test_the_rope_scaling_of_the_test_matters() -> None:
    """The frequencies lie on both sides of the bounds and between them, and leaving them out would show."""
    scaled, plain = make_hf("Llama", rope_parameters=llama3_rope()), make_hf("Llama", rope_theta=100.0)
    factors = plain.model.rotary_emb.inv_freq / scaled.model.rotary_emb.inv_freq
    assert factors.min() == 1
    assert factors.max() == 8
    assert ((factors > 1.1) & (factors < 7.9)).any()
    batch = pack([PackedGroup(*some_ids(90), [])])
    difference = decoder_of(scaled).logits(batch) - decoder_of(plain).logits(batch)
    assert float(difference.abs().max()) > 1e-2


def test_logits_of_the_embedded_model_equal_those_of_transformers(embedded: Checkpoint) -> None:
    assert embedded.config is not None
    ids = embedded.tokenizer.encode("The capital of France is Paris, and the Earth goes around the Sun once a year.")
    decoder = Decoder(embedded.config, embedded.tensors, torch.float32)
    tensors = decoder.hf_tensors()
    assert {name: tuple(t.shape) for name, t in tensors.items()} == expected_shapes(embedded.config)
    with torch.device("meta"):
        model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**embedded.hf_config))
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]
    model.load_state_dict(tensors, assign=True)
    model.model.rotary_emb = type(model.model.rotary_emb)(model.config)  # its buffers are not in the state
    with torch.no_grad():
        expected = model.eval()(torch.tensor([ids])).logits[0]
    actual = decoder.logits(pack([PackedGroup(ids, [])]))
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-4)
    # Both got the same tensors, so also: they are the ones of a model that has learnt English (nats a token).
    assert float(F.cross_entropy(actual[:-1], torch.tensor(ids[1:]))) < 3.5


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_compute_dtype_decides_the_precision(dtype: torch.dtype) -> None:
    model = make_hf("Qwen3", torch.float64)
    decoder = decoder_of(model, dtype)
    ids = some_ids(30)[0]
    with torch.no_grad():
        expected = model(torch.tensor([ids])).logits[0]
    actual = decoder.logits(pack([PackedGroup(ids, [])]))
    assert actual.dtype == torch.promote_types(dtype, torch.float32)
    error = float((actual - expected).abs().max() / expected.abs().max())
    assert error < (1e-12 if dtype == torch.float64 else 0.05)


# --- loss and gradients over shared prefixes ---------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """Groups with all that the objective needs, by completion."""

    groups: list[PackedGroup]
    old: list[Tensor]
    reference: list[Tensor]
    advantages: list[float]

    @property
    def lengths(self) -> list[int]:
        return [len(c) for group in self.groups for c in group.completions]


def plain_logprobs(model: Any, groups: Sequence[PackedGroup]) -> list[Tensor]:
    """Log-probabilities of each completion from padded rows, one a completion."""
    rows = [(list(g.prompt_ids), list(c)) for g in groups for c in g.completions]
    longest = max(len(p) + len(c) for p, c in rows)
    ids = torch.zeros(len(rows), longest, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for i, (prompt, completion) in enumerate(rows):
        ids[i, : len(prompt) + len(completion)] = torch.tensor(prompt + completion)
        mask[i, : len(prompt) + len(completion)] = 1
    logits = model(ids, attention_mask=mask).logits / TEMPERATURE
    logprobs = logits[:, :-1].log_softmax(-1).gather(2, ids[:, 1:, None])[..., 0]
    return [logprobs[i, len(p) - 1 : len(p) + len(c) - 1] for i, (p, c) in enumerate(rows)]


def make_case(model: Any) -> Case:
    shapes = [(7, [5, 1, 12, 9]), (3, [1, 1]), (11, [4, 20, 2, 1, 8])]
    groups = []
    for i, (size, lengths) in enumerate(shapes):
        prompt, *completions = some_ids(size, *lengths, seed=10 + i)
        groups.append(PackedGroup(prompt, completions))
    generator = torch.Generator().manual_seed(5)
    noisy = lambda values: values + 0.4 * torch.randn(values.shape, generator=generator).double()  # noqa: E731
    with torch.no_grad():
        logprobs = plain_logprobs(model, groups)
    advantages = (torch.randn(len(logprobs), generator=generator) + 0.5).tolist()
    return Case(groups, [noisy(x) for x in logprobs], [noisy(x) for x in logprobs], advantages)


def plain_loss(model: Any, case: Case) -> Tensor:
    """Equation 3 of DeepSeekMath, completion by completion."""
    total = torch.zeros((), dtype=torch.float64)
    for new, old, other, advantage in zip(
        plain_logprobs(model, case.groups), case.old, case.reference, case.advantages, strict=True
    ):
        ratio = (new - old).exp()
        surrogate = torch.minimum(ratio * advantage, ratio.clamp(1 - CLIP_LOW, 1 + CLIP_HIGH) * advantage)
        kl = (other - new).exp() - (other - new) - 1
        total = total - (surrogate - BETA * kl).mean()
    return total / len(case.old)


def objective_of(case: Case, members: Sequence[int], dtype: torch.dtype) -> TokenObjective:
    """GRPO's loss of some completions of the case, by their numbers, as part of the whole mini-batch."""
    lengths = torch.tensor([case.lengths[i] for i in members])
    weights = token_weights(
        lengths, "sequence", total_completions=len(case.old), total_tokens=sum(case.lengths), dtype=dtype
    )
    advantages = torch.tensor([case.advantages[i] for i in members], dtype=dtype).repeat_interleave(lengths)
    old = torch.cat([case.old[i] for i in members]).to(dtype)
    reference = torch.cat([case.reference[i] for i in members]).to(dtype)

    def objective(logprobs: Tensor, part: slice) -> Tensor:
        tokens = Tokens(logprobs, old[part], advantages[part], reference_logprobs_T=reference[part])
        terms = token_loss(tokens, SETTINGS)
        return (weights[part] * terms.loss_T).sum()

    return objective


Rows = list[list[tuple[int, list[int]]]]
"""Micro-batches; each a list of groups with the completions (by number within the group) that it holds."""


def our_loss(decoder: Decoder, case: Case, rows: Rows | None = None) -> tuple[float, dict[str, Tensor]]:
    """Loss and gradients, under Hugging Face names, summed over micro-batches (None: everything in one)."""
    first = [0]
    for group in case.groups:
        first.append(first[-1] + len(group.completions))
    if rows is None:
        rows = [[(g, list(range(len(group.completions)))) for g, group in enumerate(case.groups)]]
    for _, parameter in decoder.named_parameters():
        parameter.grad = None
    total = 0.0
    for row in rows:
        picked = [
            PackedGroup(case.groups[g].prompt_ids, [case.groups[g].completions[c] for c in parts]) for g, parts in row
        ]
        members = [first[g] + c for g, parts in row for c in parts]
        batch = pack(picked)
        loss, *_ = decoder.completion_loss(batch, objective_of(case, members, decoder.accurate), TEMPERATURE)
        loss.backward()
        total += float(loss.detach())
    gradients = {}
    for name, parameter in decoder.named_parameters():
        assert parameter.grad is not None, name
        gradients[name] = parameter.grad
    return total, decoder.hf_tensors(gradients)


def worst_error(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """Largest difference relative to the largest entry of its tensor."""
    assert set(actual) == set(expected)
    errors = []
    for name, wanted in expected.items():
        assert actual[name].shape == wanted.shape
        assert float(wanted.abs().max()) > 1e-6, f"{name} has no gradient to compare"
        errors.append(float((actual[name].double() - wanted).abs().max() / wanted.abs().max()))
    return max(errors)


def plain_result(model: Any, case: Case) -> tuple[float, dict[str, Tensor]]:
    model.zero_grad()
    loss = plain_loss(model, case)
    loss.backward()
    return float(loss.detach()), {name: parameter.grad for name, parameter in model.named_parameters()}


@pytest.mark.parametrize(("family", "overrides"), FAMILY, ids=IDS)
def test_loss_and_gradients_equal_those_of_padded_rows(family: str, overrides: dict[str, Any]) -> None:
    model = make_hf(family, torch.float64, **overrides)
    case = make_case(model)
    expected_loss, expected = plain_result(model, case)
    assert abs(expected_loss) > 0.02
    loss, gradients = our_loss(decoder_of(model, torch.float64), case)
    assert abs(loss - expected_loss) < 1e-9 * abs(expected_loss)
    assert worst_error(gradients, expected) < 1e-9
    loss, gradients = our_loss(decoder_of(model, torch.float32), case)
    assert abs(loss - expected_loss) < 1e-6
    assert worst_error(gradients, expected) < 1e-5


def test_the_case_clips_some_tokens_on_either_side() -> None:
    model = make_hf("Llama", torch.float64)
    case = make_case(model)
    with torch.no_grad():
        new = torch.cat(plain_logprobs(model, case.groups))
    advantages = torch.tensor(case.advantages).repeat_interleave(torch.tensor(case.lengths))
    terms = token_loss(Tokens(new, torch.cat(case.old), advantages), SETTINGS.model_copy(update={"beta": 0.0}))
    for clipped in (terms.policy.clipped_low_T, terms.policy.clipped_high_T):
        assert 3 <= int(clipped.sum()) < len(new) / 2


@pytest.fixture(scope="module")
def untied() -> tuple[Decoder, Case, float, dict[str, Tensor]]:
    """A decoder in fp64 with the loss and gradients of a case in one row."""
    model = make_hf("Qwen2", torch.float64)
    case = make_case(model)
    decoder = decoder_of(model, torch.float64)
    return decoder, case, *our_loss(decoder, case)


SPLITS: dict[str, Rows] = {
    "a row each group": [[(0, [0, 1, 2, 3])], [(1, [0, 1])], [(2, [0, 1, 2, 3, 4])]],
    "a row each completion": [[(g, [c])] for g, n in enumerate((4, 2, 5)) for c in range(n)],
    "cut inside groups": [[(0, [0, 1])], [(0, [2, 3]), (1, [0])], [(1, [1]), (2, [0, 1, 2])], [(2, [3, 4])]],
    "other orders": [[(2, [4, 2, 0, 1, 3]), (0, [3, 2, 1, 0]), (1, [1, 0])]],
    "a group twice in a row": [[(2, [0, 3]), (0, [0, 1, 2, 3]), (2, [4, 1, 2]), (1, [0, 1])]],
}


@pytest.mark.parametrize("split", SPLITS.values(), ids=SPLITS.keys())
def test_micro_batches_and_order_change_nothing(
    untied: tuple[Decoder, Case, float, dict[str, Tensor]], split: Rows
) -> None:
    decoder, case, expected_loss, expected = untied
    loss, gradients = our_loss(decoder, case, split)
    assert abs(loss - expected_loss) < 1e-10 * abs(expected_loss)
    assert worst_error(gradients, expected) < 1e-10


def test_sizes_of_blocks_change_nothing(
    untied: tuple[Decoder, Case, float, dict[str, Tensor]], monkeypatch: pytest.MonkeyPatch
) -> None:
    decoder, case, expected_loss, expected = untied
    monkeypatch.setattr(attention, "BLOCK_SCORES", 1)
    monkeypatch.setattr(elementwise, "ROWS_IN_CACHE", 5)
    monkeypatch.setattr(head, "CHUNK_ROWS", 7)
    monkeypatch.setattr(head, "BLOCK_ROWS", 3)
    loss, gradients = our_loss(decoder, case)
    assert abs(loss - expected_loss) < 1e-10 * abs(expected_loss)
    assert worst_error(gradients, expected) < 1e-10


def test_a_completion_without_tokens_changes_nothing(
    untied: tuple[Decoder, Case, float, dict[str, Tensor]],
) -> None:
    decoder, case, _, _ = untied
    prompt, first, second = case.groups[0].prompt_ids, *case.groups[0].completions[:2]
    with_empty = pack([PackedGroup(prompt, [first, [], second]), PackedGroup(prompt, [[]]), PackedGroup(prompt, [])])
    without = pack([PackedGroup(prompt, [first, second])])
    for actual, expected in zip(
        decoder.completion_logprobs(with_empty), decoder.completion_logprobs(without), strict=True
    ):
        torch.testing.assert_close(actual, expected, rtol=0, atol=1e-12)


def test_logprobs_without_a_graph_equal_those_of_the_loss(
    untied: tuple[Decoder, Case, float, dict[str, Tensor]],
) -> None:
    decoder, case, _, _ = untied
    batch = pack(case.groups)
    _, logprobs, entropies = decoder.completion_loss(batch, lambda x, _: x.sum(), TEMPERATURE)
    again = decoder.completion_logprobs(batch, TEMPERATURE)
    assert torch.equal(again[0], logprobs)
    assert torch.equal(again[1], entropies)
    assert not any(x.requires_grad for x in (logprobs, entropies, *again))


def test_all_completions_empty_give_a_loss_of_zero() -> None:
    decoder = decoder_of(make_hf("Llama"))
    loss, logprobs, _ = decoder.completion_loss(pack([PackedGroup([1, 2], [[], []])]), lambda x, _: x.sum())
    loss.backward()
    assert float(loss.detach()) == 0
    assert logprobs.shape == (0,)
    assert all(p.grad is None or not p.grad.any() for _, p in decoder.named_parameters())


# --- limits, copies and names ------------------------------------------------------------------------------------


def row_of(size: int) -> PackedBatch:
    return pack([PackedGroup([1] * size, [])])


def test_sequences_past_the_context_are_refused() -> None:
    decoder = decoder_of(make_hf("Llama", max_position_embeddings=20))
    assert decoder.logits(row_of(20)).shape == (20, VOCABULARY)
    with pytest.raises(ModelError, match=r"21 tokens does not fit .* 20"):
        decoder.logits(row_of(21))


def test_sequences_past_the_sliding_window_are_refused() -> None:
    model = make_hf("Mistral", sliding_window=10)
    decoder = decoder_of(model)
    ids = torch.tensor([some_ids(10)[0]])
    with torch.no_grad():
        expected = model(ids).logits[0]
    torch.testing.assert_close(decoder.logits(pack([PackedGroup(ids[0].tolist(), [])])), expected, rtol=0, atol=1e-4)
    with pytest.raises(ModelError, match="sliding window of 10"):
        decoder.logits(row_of(11))
    with pytest.raises(ModelError, match="sliding window of 10"):  # counted along the sequence, not the row
        decoder.logits(pack([PackedGroup([1] * 8, [[2] * 4])]))
    decoder.logits(pack([PackedGroup([1] * 8, [[2] * 3] * 4)]))


def test_positions_do_not_depend_on_what_was_asked_before() -> None:
    """The table of angles grows as needed; a long row first or later gives the same."""
    model = make_hf("Llama", max_position_embeddings=4096)
    short_first, long_first = decoder_of(model), decoder_of(model)
    row = pack([PackedGroup(*some_ids(40), [])])
    expected = short_first.logits(row)
    long_first.logits(row_of(1500))
    assert torch.equal(long_first.logits(row), expected)


@pytest.mark.parametrize("tied", [False, True])
def test_clone_has_weights_of_its_own(tied: bool) -> None:
    decoder = decoder_of(make_hf("Qwen3", tie_word_embeddings=tied))
    twin = decoder.clone()
    assert [name for name, _ in twin.named_parameters()] == [name for name, _ in decoder.named_parameters()]
    assert not any(p.requires_grad for _, p in twin.named_parameters())
    batch = pack([PackedGroup(*some_ids(9), [])])
    before = twin.logits(batch)
    assert torch.equal(before, decoder.logits(batch))
    with torch.no_grad():
        for _, parameter in decoder.named_parameters():
            parameter.mul_(0.5)
    assert torch.equal(twin.logits(batch), before)
    assert not torch.equal(decoder.logits(batch), before)


@pytest.mark.parametrize(("family", "overrides"), FAMILY, ids=IDS)
def test_names_and_weights_go_back_to_those_of_transformers(family: str, overrides: dict[str, Any]) -> None:
    model = make_hf(family, **overrides)
    decoder = decoder_of(model)
    state = model.state_dict()
    if overrides.get("tie_word_embeddings"):
        state.pop("lm_head.weight")
    tensors = decoder.hf_tensors()
    assert set(tensors) == set(state)
    assert all(torch.equal(tensors[name], state[name]) for name in state)
    doubled = decoder.hf_tensors({name: 2 * p for name, p in decoder.named_parameters()})
    assert all(torch.equal(doubled[name], 2 * state[name]) for name in state)


def test_parameters_are_leaves_once_each() -> None:
    for tied in (False, True):
        decoder = decoder_of(make_hf("Llama", tie_word_embeddings=tied))
        parameters = dict(decoder.named_parameters())
        assert ("head" in parameters) is not tied
        assert all(p.is_leaf and p.requires_grad for p in parameters.values())
        assert len({p.data_ptr() for p in parameters.values()}) == len(parameters)


def test_norms_stay_fp32_in_bf16() -> None:
    decoder = decoder_of(make_hf("Qwen3"), torch.bfloat16)
    kinds = {name: p.dtype for name, p in decoder.named_parameters()}
    for name in kinds:
        assert kinds[name] == (torch.float32 if "norm" in name else torch.bfloat16), name


def test_missing_tensor_is_named() -> None:
    model = make_hf("Llama")
    state = dict(model.state_dict())
    del state["model.layers.1.mlp.up_proj.weight"]
    config = parse_hf_config(model.config.to_dict(), "test").config
    assert config is not None
    with pytest.raises(ModelError, match=r"no tensor 'model\.layers\.1\.mlp\.up_proj\.weight'"):
        Decoder(config, state, torch.float32)


def test_rows_that_completions_share_get_their_gradient_in_one_order() -> None:
    """The last token of a prompt belongs to all of its completions. torch adds the gradients of `x[rows]` for repeated
    rows in whatever order its threads come.
    """
    decoder = decoder_of(make_hf("Llama"))
    batch = pack([PackedGroup(some_ids(5)[0], some_ids(3, 4, seed=1))])
    assert len(set(batch.head_rows_C.tolist())) < len(batch.head_rows_C)
    loss, *_ = decoder.completion_loss(batch, lambda logprobs_C, _: logprobs_C.sum())
    seen, rest = set(), [loss.grad_fn]
    while rest:
        node = rest.pop()
        if node is not None and node not in seen:
            seen.add(node)
            rest += [further for further, _ in node.next_functions]
    names = {node.name() for node in seen}
    assert "IndexSelectBackward0" in names
    assert "IndexBackward0" not in names
