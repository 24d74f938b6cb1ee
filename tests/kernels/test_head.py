"""The chunked head against log_softmax of all logits at once, forwards and backwards."""

from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from rethink.kernels import head
from rethink.kernels.head import Extra, TokenObjective, head_loss, token_logprobs
from rethink.kernels.native import ops


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """Products this small only wait for each other on more."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def inputs(tokens: int, size: int = 6, vocabulary: int = 11, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Hidden states, weights (fp64) and targets."""
    torch.manual_seed(seed)
    hidden, weight = torch.randn(tokens, size, dtype=torch.float64), torch.randn(vocabulary, size, dtype=torch.float64)
    return hidden, weight, torch.randint(vocabulary, (tokens,))


def plain(hidden: Tensor, weight: Tensor, targets: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Log-probabilities and entropies, differentiable."""
    logprobs_CV = (hidden @ weight.t() / temperature).log_softmax(-1)
    return logprobs_CV.gather(1, targets[:, None])[:, 0], -(logprobs_CV.exp() * logprobs_CV).sum(-1)


def objective_of(coefficients: Tensor) -> TokenObjective:
    """Depends on which targets the chunk holds, and is not linear, so that its gradient depends on the values."""
    return lambda logprobs, part: (coefficients[part].to(logprobs) * (logprobs + logprobs.square())).sum()


@given(
    tokens=st.integers(0, 17),
    size=st.integers(1, 7),
    vocabulary=st.integers(1, 13),
    chunk=st.integers(1, 9),
    block=st.integers(1, 9),
    temperature=st.sampled_from([1.0, 0.7, 2.0]),
)
@settings(max_examples=40, deadline=None, derandomize=True)
def test_equals_log_softmax_for_any_shape_and_chunk(
    tokens: int, size: int, vocabulary: int, chunk: int, block: int, temperature: float
) -> None:
    hidden, weight, targets = inputs(tokens, size, vocabulary)
    objective = objective_of(torch.randn(tokens, dtype=torch.float64))
    ours = [hidden.clone().requires_grad_(), weight.clone().requires_grad_()]
    theirs = [hidden.clone().requires_grad_(), weight.clone().requires_grad_()]
    expected, entropies = plain(*theirs, targets, temperature)
    expected_loss = objective(expected, slice(None))
    expected_loss.backward()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(head, "CHUNK_ROWS", chunk)
        patch.setattr(head, "BLOCK_ROWS", block)
        loss, logprobs, entropy = head_loss(*ours, targets, objective, temperature)
        again = token_logprobs(hidden, weight, targets, temperature)
    loss.backward()
    close = lambda a, b: torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-12)  # noqa: E731
    close(loss, expected_loss)
    close(logprobs, expected)
    close(entropy, entropies)
    assert torch.equal(again[0], logprobs)
    assert torch.equal(again[1], entropy)
    for a, b in zip(ours, theirs, strict=True):
        close(a.grad, b.grad)


def test_real_chunk_sizes_are_crossed() -> None:
    tokens = head.CHUNK_ROWS + head.BLOCK_ROWS + 1
    hidden, weight, targets = inputs(tokens)
    seen: list[slice] = []

    def objective(logprobs: Tensor, part: slice) -> Tensor:
        seen.append(part)
        assert logprobs.shape == targets[part].shape
        return logprobs.sum()

    ours = [hidden.clone().requires_grad_(), weight.clone().requires_grad_()]
    loss, logprobs, _ = head_loss(*ours, targets, objective)
    loss.backward()
    theirs = [hidden.clone().requires_grad_(), weight.clone().requires_grad_()]
    expected, _ = plain(*theirs, targets, 1.0)
    expected.sum().backward()
    torch.testing.assert_close(logprobs, expected.detach(), rtol=1e-12, atol=1e-12)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-10, atol=1e-12)
    assert [i for part in seen for i in range(tokens)[part]] == list(range(tokens))


def test_gradients_pass_gradcheck() -> None:
    hidden, weight, targets = inputs(5)
    objective = objective_of(torch.randn(5, dtype=torch.float64))
    check = lambda h, w: head_loss(h, w, targets, objective, 0.7)[0]  # noqa: E731
    assert torch.autograd.gradcheck(check, (hidden.requires_grad_(), weight.requires_grad_()))


def test_upstream_gradient_scales_and_measurements_carry_none() -> None:
    hidden, weight, targets = inputs(5)
    objective = objective_of(torch.ones(5, dtype=torch.float64))
    gradients = []
    for factor in (1.0, -2.5):
        leaf = hidden.clone().requires_grad_()
        loss, logprobs, entropies = head_loss(leaf, weight, targets, objective)
        assert not logprobs.requires_grad
        assert not entropies.requires_grad
        (gradient,) = torch.autograd.grad(loss * factor, leaf)
        gradients.append(gradient)
    torch.testing.assert_close(gradients[1], -2.5 * gradients[0])


def test_logprobs_need_no_graph() -> None:
    hidden, weight, targets = inputs(3)
    results = token_logprobs(hidden.requires_grad_(), weight.requires_grad_(), targets)
    assert not any(x.requires_grad for x in results)


@pytest.mark.parametrize("scale", [1e4, -1e4])
def test_extreme_logits_stay_finite(scale: float) -> None:
    weight = torch.tensor([[1.0], [0.0], [-1.0]], requires_grad=True)
    hidden = torch.tensor([[scale], [scale]], requires_grad=True)
    loss, logprobs, entropies = head_loss(hidden, weight, torch.tensor([0, 2]), lambda x, _: x.sum())
    loss.backward()
    likely, unlikely = (0, 1) if scale > 0 else (1, 0)
    assert logprobs[likely] == 0
    assert logprobs[unlikely] == -2e4
    assert entropies.tolist() == [0.0, 0.0]
    assert hidden.grad is not None
    assert weight.grad is not None
    assert torch.isfinite(hidden.grad).all()
    assert torch.isfinite(weight.grad).all()


def test_bf16_measures_in_fp32_from_its_logits() -> None:
    hidden, weight, targets = inputs(40, size=16, vocabulary=50)
    low = [hidden.to(torch.bfloat16).requires_grad_(), weight.to(torch.bfloat16).requires_grad_()]
    objective = objective_of(torch.linspace(-1, 1, 40, dtype=torch.float64))
    loss, logprobs, entropies = head_loss(*low, targets, objective, 0.9)
    loss.backward()
    assert {loss.dtype, logprobs.dtype, entropies.dtype} == {torch.float32}
    # The native product keeps logits in fp32; torch's rounds them to bf16 first.
    exact_sums = ops.usable(low[0].detach())
    logits = low[0].detach().double() @ low[1].detach().double().t()
    logits = logits if exact_sums else (low[0].detach() @ low[1].detach().t()).double()
    expected = (logits / 0.9).log_softmax(-1).gather(1, targets[:, None])[:, 0]
    torch.testing.assert_close(logprobs.double(), expected, rtol=0, atol=1e-5)
    exact = [x.detach().double().requires_grad_() for x in low]
    objective(plain(*exact, targets, 0.9)[0], slice(None)).backward()
    for a, b in zip(low, exact, strict=True):
        assert a.grad is not None
        assert b.grad is not None
        assert a.grad.dtype == torch.bfloat16
        assert float((a.grad.double() - b.grad).abs().max() / b.grad.abs().max()) < 0.03


def test_a_kept_gradient_is_added_to_at_once() -> None:
    """As the optimizer hangs it on the weight: for the loss itself, and only where gradients are wanted."""
    hidden, weight, targets = inputs(5)
    objective = objective_of(torch.randn(5, dtype=torch.float64))
    leaves = [hidden.clone().requires_grad_(), weight.clone().requires_grad_()]
    head_loss(*leaves, targets, objective)[0].backward()
    kept = weight.clone().requires_grad_()
    kept.main_grad = torch.ones_like(weight)  # type: ignore[attr-defined]
    other = hidden.clone().requires_grad_()
    with torch.no_grad():
        head_loss(other, kept, targets, objective)
    assert bool((kept.main_grad == 1).all())  # type: ignore[attr-defined]
    loss, *_ = head_loss(other, kept, targets, objective)
    loss.backward()
    assert kept.grad is None
    torch.testing.assert_close(other.grad, leaves[0].grad)
    torch.testing.assert_close(kept.main_grad - 1, leaves[1].grad)  # type: ignore[attr-defined]
    with pytest.raises(RuntimeError, match="cannot be scaled"):
        (2 * head_loss(other, kept, targets, objective)[0]).backward()


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 2e-5), (torch.bfloat16, 2e-2)]
)
def test_a_bonus_adds_the_gradient_of_the_entropy(
    dtype: torch.dtype, tolerance: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against autograd of the whole logits, in several chunks, with native kernels where there are any."""
    monkeypatch.setattr(head, "CHUNK_ROWS", 3)
    hidden, weight, targets = inputs(7, 32, 96)
    hidden, weight = hidden.to(dtype), (weight / 4).to(dtype)
    factors, bonus = torch.randn(2, 7, dtype=torch.float64)
    bonus[2] = 0
    ours = [hidden.clone().requires_grad_(), weight.clone().requires_grad_()]
    accurate = torch.promote_types(dtype, torch.float32)
    weights = factors.to(accurate)
    loss, *_ = head_loss(
        *ours, targets, lambda logprobs, part: (weights[part] * logprobs).sum(), 0.7, extra=Extra(bonus.to(accurate))
    )
    loss.backward()
    exact = [hidden.double().requires_grad_(), weight.double().requires_grad_()]
    logprobs, entropies = plain(*exact, targets, 0.7)
    expected = (factors * logprobs - bonus * entropies).sum()
    expected.backward()
    for found, wanted in ((loss, expected), *((a.grad, b.grad) for a, b in zip(ours, exact, strict=True))):
        assert found is not None
        assert wanted is not None
        assert (found.double() - wanted).abs().max() <= tolerance * wanted.abs().max()
