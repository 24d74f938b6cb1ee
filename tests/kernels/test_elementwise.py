"""RMSNorm, rotation and SwiGLU against their formulas, forwards and backwards."""

from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from rethink.kernels import elementwise
from rethink.kernels.elementwise import ROWS_IN_CACHE, rms_norm, rotate, swiglu, swiglu_inference

EPSILON = 1e-3
ROWS = (1, 7, ROWS_IN_CACHE, ROWS_IN_CACHE + 1, 2 * ROWS_IN_CACHE + 3)


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """Products this small only wait for each other on more."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def plain_norm(x: Tensor, weight: Tensor) -> Tensor:
    return x / (x.square().mean(-1, keepdim=True) + EPSILON).sqrt() * weight


def plain_rotate(x_THD: Tensor, cos_TD: Tensor, sin_TD: Tensor) -> Tensor:
    """As transformers' `apply_rotary_pos_emb`."""
    first, second = x_THD.chunk(2, dim=-1)
    return x_THD * cos_TD[:, None] + torch.cat((-second, first), -1) * sin_TD[:, None]


def plain_swiglu(gate_up: Tensor) -> Tensor:
    gate, up = gate_up.chunk(2, dim=-1)
    return gate / (1 + torch.exp(-gate)) * up


def random(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64)


def angles(tokens: int, size: int) -> tuple[Tensor, Tensor]:
    turned = random(tokens, size // 2).repeat(1, 2) * 3
    return turned.cos(), turned.sin()


def assert_same_gradients(ours: object, plain: object, *inputs: Tensor) -> None:
    assert callable(ours)
    assert callable(plain)
    results = []
    for function in (ours, plain):
        leaves = [x.detach().clone().requires_grad_() for x in inputs]
        out = function(*leaves)
        torch.manual_seed(9)
        results.append([out.detach(), *torch.autograd.grad(out, leaves, torch.randn_like(out))])
    for actual, expected in zip(*results, strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("rows", ROWS)
def test_norm_at_the_edges_of_its_blocks(rows: int) -> None:
    torch.manual_seed(0)
    ours = lambda x, w: rms_norm(x, w, EPSILON, torch.float64)  # noqa: E731
    assert_same_gradients(ours, plain_norm, random(rows, 5), random(5))
    assert_same_gradients(ours, plain_norm, random(rows, 3, 4), random(4))  # the norm of each head


@pytest.mark.parametrize("rows", ROWS)
def test_rotation_at_the_edges_of_its_blocks(rows: int) -> None:
    torch.manual_seed(0)
    cos, sin = angles(rows, 6)
    assert_same_gradients(lambda x: rotate(x, cos, sin), lambda x: plain_rotate(x, cos, sin), random(rows, 3, 6))


@pytest.mark.parametrize("rows", ROWS)
def test_swiglu_at_the_edges_of_its_blocks(rows: int) -> None:
    torch.manual_seed(0)
    assert_same_gradients(swiglu, plain_swiglu, random(rows, 10) * 4)


@given(rows=st.integers(1, 9), block=st.integers(1, 9), heads=st.integers(1, 4), half=st.integers(1, 5))
@settings(max_examples=25, deadline=None, derandomize=True)
def test_any_shape_and_block(rows: int, block: int, heads: int, half: int) -> None:
    torch.manual_seed(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(elementwise, "ROWS_IN_CACHE", block)
        cos, sin = angles(rows, 2 * half)
        x = random(rows, heads, 2 * half)
        assert_same_gradients(lambda x: rotate(x, cos, sin), lambda x: plain_rotate(x, cos, sin), x)
        assert_same_gradients(swiglu, plain_swiglu, random(rows, 2 * half))
        norm = lambda x, w: rms_norm(x, w, EPSILON, torch.float64)  # noqa: E731
        assert_same_gradients(norm, plain_norm, x, random(2 * half))


def test_gradients_pass_gradcheck() -> None:
    torch.manual_seed(0)
    check = torch.autograd.gradcheck
    x, weight = random(3, 2, 4).requires_grad_(), random(4).requires_grad_()
    cos, sin = angles(3, 4)
    assert check(lambda x, w: rms_norm(x, w, EPSILON, torch.float64), (x, weight))
    assert check(lambda x: rotate(x, cos, sin), (x,))
    assert check(swiglu, (random(3, 8).requires_grad_(),))


def test_parts_of_a_fused_projection_need_no_copy() -> None:
    """Queries and keys are slices of one tensor, so rows do not lie behind one another."""
    torch.manual_seed(0)
    fused = random(5, 3 * 8)
    part = lambda f: f[:, 8:16].view(5, 2, 4)  # noqa: E731
    cos, sin = angles(5, 4)
    weight = random(4)
    assert_same_gradients(
        lambda f: rotate(rms_norm(part(f), weight, EPSILON, torch.float64), cos, sin),
        lambda f: plain_rotate(plain_norm(part(f), weight), cos, sin),
        fused,
    )


@pytest.mark.parametrize("rows", [3, ROWS_IN_CACHE + 1])
def test_inference_is_the_same_and_leaves_its_input(rows: int) -> None:
    torch.manual_seed(0)
    gate_up = random(rows, 8)
    before = gate_up.clone()
    torch.testing.assert_close(swiglu_inference(gate_up), plain_swiglu(gate_up))
    assert torch.equal(swiglu_inference(gate_up), swiglu(gate_up))
    assert torch.equal(gate_up, before)


def test_norm_computes_in_fp32_and_returns_the_dtype_asked_for() -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(9, 16) * 3, torch.randn(16)
    leaves = [x.clone().requires_grad_(), weight.clone().requires_grad_()]
    out = rms_norm(*leaves, EPSILON, torch.bfloat16)
    assert out.dtype == torch.bfloat16
    # One rounding at the end: exactly the fp32 result in bf16, where rounding inside would differ.
    exact = plain_norm(x.double(), weight.double())
    torch.testing.assert_close(out.double(), exact, rtol=2**-8, atol=1e-6)
    gradients = torch.autograd.grad(out, leaves, torch.ones_like(out))
    assert {g.dtype for g in gradients} == {torch.float32}
    wanted = [x.double().requires_grad_(), weight.double().requires_grad_()]
    plain_norm(*wanted).sum().backward()
    for actual, expected in zip(gradients, wanted, strict=True):
        assert expected.grad is not None
        torch.testing.assert_close(actual.double(), expected.grad, rtol=1e-4, atol=1e-5)


def test_rotation_of_bf16_uses_the_precision_of_the_angles() -> None:
    torch.manual_seed(0)
    cos, sin = (x.float() for x in angles(9, 8))
    x = torch.randn(9, 2, 8).to(torch.bfloat16)
    out = rotate(x, cos, sin)
    assert out.dtype == torch.bfloat16
    exact = plain_rotate(x.double(), cos.double(), sin.double())
    torch.testing.assert_close(out.double(), exact, rtol=2**-8, atol=1e-5)


def test_swiglu_of_bf16_has_the_gradient_of_fp32_to_one_rounding() -> None:
    torch.manual_seed(0)
    gate_up = (torch.randn(9, 8) * 3).to(torch.bfloat16).requires_grad_()
    out = swiglu(gate_up)
    (actual,) = torch.autograd.grad(out, gate_up, torch.ones_like(out))
    assert (out.dtype, actual.dtype) == (torch.bfloat16, torch.bfloat16)
    exact = gate_up.detach().double().requires_grad_()
    (expected,) = torch.autograd.grad(plain_swiglu(exact).sum(), exact)
    torch.testing.assert_close(actual.double(), expected, rtol=2**-7, atol=1e-5)


def test_large_gates_saturate() -> None:
    gate_up = torch.tensor([[1e4, -1e4, 3.0, 5.0]], requires_grad=True)
    out = swiglu(gate_up)
    (grad,) = torch.autograd.grad(out.sum(), gate_up)
    assert out.tolist() == [[3e4, 0.0]]
    assert grad.tolist() == [[3.0, 0.0, 1e4, 0.0]]
    assert torch.equal(F.silu(gate_up[:, :2]), out / gate_up[:, 2:])
