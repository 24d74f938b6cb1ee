"""The loss of fine-tuning is `transformers`' own; packing and micro-batches change memory, never the update."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from rethink.errors import NumericsError
from rethink.kinds.sft.recipe import SFTOptimizer, SFTRecipe
from rethink.kinds.sft.update import accumulate_gradients, lanes_of, micro_batches, packed_group
from rethink.model.decoder.decoder import Decoder
from rethink.model.text.training_text import ConversationRenderer, Document
from rethink.model.tokenizer.tokenizer import Tokenizer
from rethink.model.transformers_model import TransformersModel
from rethink.runs.optimizer import MasterAdamW
from tests.models import SHAPE, decoder_of, tiny_model

VOCABULARY = 300
FAMILIES = ("Llama", "Qwen2", "Qwen3")
WHOLE = 10_000


def model_of(family: str) -> Any:
    return tiny_model(family, seed=3, vocab_size=VOCABULARY, max_position_embeddings=128, **SHAPE)


def recipe(aggregation: str = "token") -> SFTRecipe:
    return SFTRecipe.model_validate(
        {"name": "t", "steps": 9, "data": [{"path": "rows.jsonl"}], "aggregation": aggregation}
    )


def documents() -> list[Document]:
    """Seven documents of one or several trained stretches; two pairs begin alike, one of them up to the end."""
    dice = random.Random(4)

    def ids(size: int) -> list[int]:
        return [dice.randrange(VOCABULARY) for _ in range(size)]

    shared = ids(9)
    shapes = [
        (shared + ids(4), [(9, 13)]),
        (shared + ids(7), [(11, 16)]),
        (shared + ids(7), [(4, 7), (12, 16)]),  # trained on what others have as their prompt
        (ids(2), [(1, 2)]),
        (ids(30), [(5, 8), (9, 10), (20, 30)]),
        (ids(17), [(1, 17)]),
    ]
    shapes.append((list(shapes[0][0]), [(9, 13)]))
    out = []
    for tokens, stretches in shapes:
        trained = np.zeros(len(tokens), bool)
        for first, last in stretches:
            trained[first:last] = True
        assert trained[-1]
        out.append(Document(np.array(tokens, np.int32), trained))
    return out


def ours(
    model: Any, made: list[Document], aggregation: str = "token", limit: int = WHOLE
) -> tuple[float, dict[str, Tensor]]:
    """Loss and gradients, these under Hugging Face's names."""
    optimizer = MasterAdamW(model, SFTOptimizer())
    stats = accumulate_gradients(recipe(aggregation), model, None, *lanes_of(made, 1), 0, limit)
    assert stats.tokens == sum(document.target_tokens for document in made)
    return stats.loss, {name: g.clone() for name, g in model.hf_tensors(optimizer.gradients()).items()}


def theirs(module: Any, made: list[Document]) -> tuple[float, dict[str, Tensor]]:
    """`transformers` on the padded batch with labels of -100."""
    width = max(len(document.token_ids) for document in made)
    ids = torch.zeros(len(made), width, dtype=torch.long)
    labels, mask = torch.full_like(ids, -100), torch.zeros_like(ids)
    for row, document in enumerate(made):
        tokens = torch.from_numpy(document.token_ids).long()
        ids[row, : len(tokens)], mask[row, : len(tokens)] = tokens, 1
        labels[row, : len(tokens)] = torch.where(torch.from_numpy(document.trained), tokens, -100)
    module.zero_grad()
    loss = module(input_ids=ids, attention_mask=mask, labels=labels).loss
    loss.backward()
    return float(loss.detach()), {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}


def close(one: dict[str, Tensor], two: dict[str, Tensor], tolerance: float) -> None:
    for name, gradient in two.items():
        scale = gradient.abs().max().clamp_min(1e-30)
        assert (gradient - one[name]).abs().max() <= tolerance * scale, name


@pytest.mark.parametrize("family", FAMILIES)
def test_the_loss_is_that_of_transformers(family: str) -> None:
    module = model_of(family)
    loss, gradients = ours(decoder_of(module), documents())
    expected, expected_gradients = theirs(module, documents())
    assert loss == pytest.approx(expected, abs=1e-5)
    assert expected > 1
    close(gradients, expected_gradients, 1e-4)
    # To its own rounding in fp64.
    loss, gradients = ours(decoder_of(module.double(), torch.float64), documents())
    expected, expected_gradients = theirs(module, documents())
    assert loss == pytest.approx(expected, abs=1e-6)  # transformers computes the loss itself in fp32
    close(gradients, expected_gradients, 1e-5)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-6)])
@pytest.mark.parametrize("family", FAMILIES)
def test_packed_is_unpacked(family: str, dtype: torch.dtype, tolerance: float) -> None:
    """One row of all documents against each in a row of its own."""
    module = model_of(family)
    packed, packed_gradients = ours(decoder_of(module, dtype), documents())
    alone, gradients = ours(decoder_of(module, dtype), documents(), limit=1)
    assert len(list(micro_batches(documents(), 1, torch.device("cpu")))) == len(documents())
    assert packed == pytest.approx(alone, rel=tolerance)
    close(packed_gradients, gradients, tolerance if dtype == torch.float64 else 1e-5)


def test_documents_see_only_themselves() -> None:
    """What a document holds has no part in another's log-probabilities, and none in the gradient through them."""
    model, made = decoder_of(model_of("Llama"), torch.float64), documents()
    (batch,) = micro_batches(made, WHOLE, model.device)
    before, _ = model.completion_logprobs(batch)
    changed = [*made]
    tokens = (made[4].token_ids + 1) % VOCABULARY
    changed[4] = Document(tokens.astype(np.int32), made[4].trained)
    (batch,) = micro_batches(changed, WHOLE, model.device)
    after, _ = model.completion_logprobs(batch)
    sizes = [document.target_tokens for document in made]
    same = [torch.allclose(a, b, atol=1e-12) for a, b in zip(before.split(sizes), after.split(sizes), strict=True)]
    assert same == [True] * 4 + [False] + [True] * 2


@pytest.mark.parametrize("aggregation", ["token", "sequence"])
def test_micro_batches_change_nothing(aggregation: str) -> None:
    module = model_of("Qwen2")
    loss, gradients = ours(decoder_of(module, torch.float64), documents(), aggregation)
    for limit in (1, 13, 40, 60):
        other, other_gradients = ours(decoder_of(module, torch.float64), documents(), aggregation, limit)
        assert other == pytest.approx(loss, abs=1e-12)
        close(other_gradients, gradients, 1e-10)


def test_averages() -> None:
    """By hand: over all tokens, and document by document."""
    model, made = decoder_of(model_of("Llama"), torch.float64), documents()
    losses = []
    for document in made:
        (batch,) = micro_batches([document], WHOLE, model.device)
        losses.append(-model.completion_logprobs(batch)[0])
    over_tokens = float(torch.cat(losses).mean())
    over_documents = float(torch.stack([loss.mean() for loss in losses]).mean())
    assert ours(decoder_of(model_of("Llama"), torch.float64), made)[0] == pytest.approx(over_tokens, abs=1e-9)
    by_sequence = ours(decoder_of(model_of("Llama"), torch.float64), made, "sequence")[0]
    assert by_sequence == pytest.approx(over_documents, abs=1e-9)
    assert abs(over_tokens - over_documents) > 1e-3


def test_the_slow_path_through_transformers_agrees() -> None:
    """Other architectures read sequence by sequence; what is trained on is the same."""
    module = model_of("Llama").double()
    slow = TransformersModel(module, torch.float64)
    loss, gradients = ours(decoder_of(module, torch.float64), documents())
    slow_loss, slow_gradients = ours(slow, documents())
    assert slow_loss == pytest.approx(loss, abs=1e-6)
    close(slow_gradients, gradients, 1e-6)
    batches = list(micro_batches(documents(), 30, torch.device("cpu")))
    model = decoder_of(module, torch.float64)
    for batch in batches:
        torch.testing.assert_close(
            slow.completion_logprobs(batch)[0].double(), model.completion_logprobs(batch)[0], atol=1e-6, rtol=0
        )


def test_what_documents_begin_with_alike_is_computed_once() -> None:
    (batch,) = micro_batches(documents(), WHOLE, torch.device("cpu"))
    assert batch.input_tokens < sum(len(document.token_ids) - 1 for document in documents())
    assert batch.target_tokens == sum(document.target_tokens for document in documents())
    assert packed_group(documents()[0]).masks is None
    assert packed_group(documents()[4]).masks is not None


def test_a_loss_that_is_not_finite_stops() -> None:
    model = decoder_of(model_of("Llama"))
    with torch.no_grad():
        next(iter(model.named_parameters()))[1].fill_(float("nan"))
    MasterAdamW(model, SFTOptimizer())
    with pytest.raises(NumericsError, match=r"the loss of step 3 is nan.*optimizer\.learning_rate"):
        accumulate_gradients(recipe(), model, None, *lanes_of(documents(), 1), 2, WHOLE)


def test_a_chat_against_transformers_with_its_template(small_tokenizer: Tokenizer, tmp_path: Path) -> None:
    """The whole way from messages to loss: ids by the template, labels on the assistant's tokens."""
    vocabulary = small_tokenizer.vocab_size
    module = tiny_model("Llama", seed=1, vocab_size=vocabulary, max_position_embeddings=256, **SHAPE)
    messages = [
        {"role": "user", "content": "What is 1 + 1?"},
        {"role": "assistant", "content": "<think>Easy.</think> 2"},
        {"role": "user", "content": "And 2 + 2?"},
        {"role": "assistant", "content": "4"},
    ]
    document = ConversationRenderer(small_tokenizer, "chat").render(messages, "here")
    text = small_tokenizer.render_chat(messages, add_generation_prompt=False)
    ids = torch.tensor([small_tokenizer.encode(text)])
    labels = torch.full_like(ids, -100)
    for answer in ("<think>Easy.</think> 2<|im_end|>", "4<|im_end|>"):
        wanted = small_tokenizer.encode(answer)
        starts = [i for i in range(ids.shape[1]) if ids[0, i : i + len(wanted)].tolist() == wanted]
        place = starts[-1]
        labels[0, place : place + len(wanted)] = ids[0, place : place + len(wanted)]
    expected = float(module(input_ids=ids, labels=labels).loss.detach())
    assert ours(decoder_of(module), [document])[0] == pytest.approx(expected, abs=1e-5)
    assert isinstance(decoder_of(module), Decoder)
