"""Native kernels against their torch references in fp64, and the promise that a row depends on itself alone."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from rethink.kernels import head, sampling
from rethink.kernels.attention import tree_attention
from rethink.kernels.elementwise import rms_norm, rotate, swiglu
from rethink.kernels.linear import PackedLinear, linear
from rethink.kernels.native import ops
from rethink.kernels.native.library import HERE, SOURCES, native, status
from rethink.model.decoder.packing import PackedGroup, pack

BF16 = 2**-8
"""Relative rounding of bf16 (half of the distance between neighbours is 2**-9; two roundings are allowed)."""
needs_bf16 = pytest.mark.skipif(
    not ops.usable(torch.empty(0, dtype=torch.bfloat16)), reason=f"no native bf16 kernels here: {status()}"
)
ADAMW = str(Path(__file__).with_name("test_adamw.py"))
needs_native = pytest.mark.skipif(native() is None, reason=f"no native kernels here: {status()}")
DTYPES = [pytest.param(torch.bfloat16, marks=needs_bf16), pytest.param(torch.float32, marks=needs_native)]


@pytest.fixture(params=[1, 2], autouse=True)
def _threads(request: pytest.FixtureRequest) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


def tolerance(dtype: torch.dtype) -> float:
    return 2 * BF16 if dtype == torch.bfloat16 else 2e-5


def worst(actual: Tensor, expected: Tensor) -> float:
    """Largest error relative to the largest entry."""
    return float((actual.double() - expected.double()).abs().max() / expected.double().abs().max().clamp(min=1e-30))


def unaligned(x: Tensor) -> Tensor:
    """The same values at an address that is no multiple of anything but the entry's size."""
    memory = torch.empty(x.numel() + 1, dtype=x.dtype)[1:].view(x.shape)
    return memory.copy_(x)


# --- matrix products -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@given(rows=st.integers(1, 40), inputs=st.integers(1, 70), outputs=st.integers(1, 80), seed=st.integers(0, 9))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_products_of_any_shape(dtype: torch.dtype, rows: int, inputs: int, outputs: int, seed: int) -> None:
    torch.manual_seed(seed)
    x, w = torch.randn(rows, inputs).to(dtype), torch.randn(outputs, inputs).to(dtype)
    bias, residual = torch.randn(outputs).to(dtype), torch.randn(rows, outputs)
    exact = x.double() @ w.double().t()
    forward, backward = ops.pack_weight(unaligned(w), True), ops.pack_weight(w.t().contiguous(), False)
    assert torch.equal(forward, backward)
    out = torch.empty(rows, outputs)
    assert worst(ops.product(unaligned(x), forward, out, ops.OUT_FP32, residual=residual), exact + residual) < 1e-5
    assert worst(ops.product(x.t().contiguous(), forward, out, ops.OUT_FP32, transposed=True), exact) < 1e-5
    assert worst(ops.product(x.float(), forward, out.fill_(1), ops.OUT_ADD), exact + 1) < 1e-5
    own = torch.empty(rows, outputs, dtype=dtype)
    kind, most = (ops.OUT_BF16, BF16) if dtype == torch.bfloat16 else (ops.OUT_FP32, 1e-5)
    assert worst(ops.product(x, forward, own, kind, bias=bias), exact + bias.double()) < most


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("inputs", [1000, 9001])
def test_long_sums_are_cut_alike_for_any_number_of_rows(dtype: torch.dtype, inputs: int) -> None:
    torch.manual_seed(0)
    x, w = torch.randn(400, inputs).to(dtype), torch.randn(33, inputs).to(dtype)
    packed = ops.pack_weight(w, True)
    whole = ops.product(x, packed, torch.empty(400, 33), ops.OUT_FP32)
    assert worst(whole, x.double() @ w.double().t()) < 1e-5
    for rows in (1, 7, 13, 40):
        assert torch.equal(ops.product(x[:rows], packed, torch.empty(rows, 33), ops.OUT_FP32), whole[:rows])


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_row_is_the_same_among_any_others(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    x, w = torch.randn(300, 96).to(dtype), torch.randn(130, 96).to(dtype)
    packed = PackedLinear(w)
    whole = linear(x, w)
    for first, rows in [(0, 1), (7, 2), (30, 11), (12, 12), (40, 13), (100, 64), (0, 299)]:
        assert torch.equal(packed(x[first : first + rows]), whole[first : first + rows])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("with_buffer", [False, True])
def test_gradients_of_a_product(dtype: torch.dtype, with_buffer: bool) -> None:
    torch.manual_seed(0)
    x, w, b = torch.randn(37, 48).to(dtype), torch.randn(70, 48).to(dtype), torch.randn(70).to(dtype)
    leaves = [t.requires_grad_() for t in (x, w, b)]
    exact = [t.detach().double().requires_grad_() for t in leaves]
    up = torch.randn(37, 70).to(dtype)
    buffers = [torch.ones(t.shape) for t in (w, b)]
    if with_buffer:
        w.main_grad, b.main_grad = buffers  # type: ignore[attr-defined]
    linear(x, w, b).backward(up)
    torch.nn.functional.linear(*exact).backward(up.double())
    got = [x.grad, *([t - 1 for t in buffers] if with_buffer else [w.grad, b.grad])]
    for actual, wanted in zip(got, exact, strict=True):
        assert actual is not None
        assert wanted.grad is not None
        assert worst(actual, wanted.grad) < (BF16 if dtype == torch.bfloat16 else 1e-5)
    assert (w.grad is None) == with_buffer


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_residual_keeps_its_precision(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    x, w = torch.randn(5, 16).to(dtype), torch.randn(8, 16).to(dtype) * 2**-10
    residual = torch.randn(5, 8).requires_grad_()
    out = linear(x, w, residual_TO=residual)
    assert out.dtype == torch.float32
    assert worst(out.detach(), residual.detach().double() + x.double() @ w.double().t()) < 1e-6
    out.sum().backward()
    assert residual.grad is not None
    assert torch.equal(residual.grad, torch.ones(5, 8))


# --- attention -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@given(
    shared=st.integers(0, 40),
    groups=st.lists(st.tuples(st.integers(1, 30), st.lists(st.integers(0, 50), max_size=4)), min_size=1, max_size=3),
    kv_heads=st.integers(1, 3),
    fold=st.integers(1, 8),
    size=st.sampled_from([16, 32, 48, 64, 80, 128]),
)
@settings(max_examples=25, deadline=None, derandomize=True)
def test_tree_attention_of_any_shape(
    dtype: torch.dtype, shared: int, groups: list[tuple[int, list[int]]], kv_heads: int, fold: int, size: int
) -> None:
    torch.manual_seed(0)
    prompts = [[0] * shared + [i + 1] * n for i, (n, _) in enumerate(groups)]
    layout = pack([PackedGroup(p, [[9] * n for n in c]) for p, (_, c) in zip(prompts, groups, strict=True)]).layout
    tokens = sum(s.size for s in layout.segments)
    # Queries, keys and values as slices of one row, as a fused projection leaves them.
    fused = torch.randn(tokens, kv_heads * (fold + 2), size).to(dtype)
    q, k, v = (x.requires_grad_() for x in fused.split([kv_heads * fold, kv_heads, kv_heads], 1))
    up = torch.randn(tokens, kv_heads * fold, size).to(dtype)
    exact = [x.detach().double().requires_grad_() for x in (q, k, v)]
    out, wanted = tree_attention(q, k, v, layout), tree_attention(*exact, layout)
    assert worst(out.detach(), wanted.detach()) < tolerance(dtype)
    got = torch.autograd.grad(out, (q, k, v), up)
    for actual, expected in zip(got, torch.autograd.grad(wanted, exact, up.double()), strict=True):
        # Gradients that cancel to nothing have no relative error.
        scale = max(float(expected.abs().max()), 0.05)
        assert float((actual.double() - expected).abs().max()) < tolerance(dtype) * scale


@pytest.mark.parametrize("dtype", DTYPES)
def test_scores_of_thousands_stay_finite(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    layout = pack([PackedGroup([1] * 20, [[2] * 30, [3] * 5])]).layout
    q, k, v = (torch.randn(53, h, 32).to(dtype) * s for h, s in ((4, 60), (2, 60), (2, 1)))
    leaves = [x.requires_grad_() for x in (q, k, v)]
    out = tree_attention(*leaves, layout)
    out.sum().backward()
    assert torch.isfinite(out).all()
    assert all(x.grad is not None and torch.isfinite(x.grad).all() for x in leaves)


# --- element-wise and head -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@given(rows=st.integers(1, 40), width=st.integers(1, 70))
@settings(max_examples=25, deadline=None, derandomize=True)
def test_norm_and_gate_of_any_width(dtype: torch.dtype, rows: int, width: int) -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(rows, width), torch.randn(width)
    gate = torch.randn(rows, 2 * width).to(dtype) * 3
    up = torch.randn(rows, width).to(dtype)
    for function, operands in ((lambda a, b: rms_norm(a, b, 1e-5, a.dtype), (x, weight)), (swiglu, (gate,))):
        native_ = [t.clone().requires_grad_() for t in operands]
        exact = [t.double().requires_grad_() for t in operands]
        low = rms_norm(native_[0], native_[1], 1e-5, dtype) if len(operands) == 2 else swiglu(native_[0])
        wanted = function(*exact)
        assert low.dtype == dtype
        assert worst(low.detach(), wanted.detach()) < tolerance(dtype)
        got = torch.autograd.grad(low, native_, up)
        for actual, expected in zip(got, torch.autograd.grad(wanted, exact, up.double()), strict=True):
            scale = max(float(expected.abs().max()), 0.05)
            assert float((actual.double() - expected).abs().max()) < tolerance(dtype) * scale


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_norm_whose_weight_is_bf16_is_computed_and_not_read_as_fp32(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(5, 64), torch.randn(64).to(torch.bfloat16)
    leaves = [x.clone().requires_grad_(), weight.clone().requires_grad_()]
    exact = [x.double().requires_grad_(), weight.double().requires_grad_()]
    low, wanted = rms_norm(*leaves, 1e-5, dtype), rms_norm(*exact, 1e-5, torch.float64)
    assert worst(low.detach(), wanted.detach()) < tolerance(dtype)
    low.backward(torch.ones_like(low))
    wanted.backward(torch.ones_like(wanted))
    for got, right in zip(leaves, exact, strict=True):
        assert got.grad is not None
        assert right.grad is not None
        assert worst(got.grad, right.grad) < 3 * tolerance(torch.bfloat16)


@needs_native
def test_kernels_refuse_tensors_of_another_type() -> None:
    x, half = torch.randn(8, 32), torch.randn(8, 32).to(torch.bfloat16)
    numbers = ops.AdamWNumbers(*[0.5] * 7)
    calls = {
        "norm": lambda: ops.rms_norm(x, half[0], 1e-5, torch.bfloat16),
        "bias": lambda: ops.product(half, half, torch.empty(8, 8), ops.OUT_FP32, bias=x[0]),
        "packed": lambda: ops.product(half, x, torch.empty(8, 8), ops.OUT_FP32),
        "out": lambda: ops.product(half, half, torch.empty(8, 8), ops.OUT_BF16),
        "fp64": lambda: ops.swiglu(x.double()),
        "gate": lambda: ops.swiglu_backward(half, x),
        "angles": lambda: ops.rotate(half.view(8, 1, 32), half, half, 1),
        "targets": lambda: ops.head_logprobs(x, torch.zeros(8, dtype=torch.int32), 1.0, x[:, 0], None, None),
        "moments": lambda: ops.adamw(x[0], None, x[1], half[0], x[2], numbers),
        "layer": lambda: ops.layer_pointers(torch.bfloat16, input_norm=half),
        "rows": lambda: ops.runs_of(*[torch.zeros(1, dtype=torch.int64)] * 4, torch.zeros(1, 1, dtype=torch.int32)),
    }
    for call in calls.values():
        with pytest.raises(TypeError, match="a native kernel reads"):
            call()


@needs_native
def test_fp32_products_refuse_tensors_of_another_type() -> None:
    x, packed, out = torch.randn(8, 32), ops.pack_weight(torch.randn(8, 32), True), torch.empty(8, 8)
    calls = {
        "rows": lambda: ops.product(x.bfloat16(), packed, out, ops.OUT_FP32),
        "bias": lambda: ops.product(x, packed, out, ops.OUT_FP32, bias=x[0].bfloat16()),
        "residual": lambda: ops.product(x, packed, out, ops.OUT_FP32, residual=out.bfloat16()),
        "out": lambda: ops.product(x, packed, out.bfloat16(), ops.OUT_FP32),
        "layer": lambda: ops.layer_pointers(torch.float32, qkv=x.bfloat16()),
    }
    for call in calls.values():
        with pytest.raises(TypeError, match="a native kernel reads"):
            call()


@pytest.mark.parametrize("dtype", DTYPES)
def test_rotation_of_rows_that_lie_apart(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    x = torch.randn(9, 7, 24).to(dtype)[:, 1:5]
    angles = torch.rand(9, 12).repeat(1, 2) * 6
    wanted = rotate(x.double(), angles.double().cos(), angles.double().sin())
    assert worst(rotate(x, angles.cos(), angles.sin()), wanted) < tolerance(dtype)


@needs_native
@given(rows=st.integers(1, 9), width=st.integers(1, 300), temperature=st.sampled_from([0.3, 1.0, 1.7]))
@settings(max_examples=40, deadline=None, derandomize=True)
def test_log_probabilities_of_rows(rows: int, width: int, temperature: float) -> None:
    torch.manual_seed(0)
    logits, targets = torch.randn(rows, width) * 5, torch.randint(width, (rows,))
    logprobs, entropies, lse = (torch.empty(rows) for _ in range(3))
    ops.head_logprobs(logits, targets, temperature, logprobs, entropies, lse)
    wanted = (logits.double() / temperature).log_softmax(-1)
    torch.testing.assert_close(logprobs.double(), wanted.gather(1, targets[:, None])[:, 0], rtol=1e-6, atol=2e-6)
    torch.testing.assert_close(entropies.double(), -(wanted.exp() * wanted).sum(-1), rtol=1e-5, atol=2e-6)
    coefficients = torch.randn(rows)
    gradient = ops.head_gradient(logits.clone(), targets, lse, coefficients, temperature, torch.float32)
    onehot = torch.nn.functional.one_hot(targets, width)
    expected = coefficients[:, None].double() * (onehot - wanted.exp()) / temperature
    torch.testing.assert_close(gradient.double(), expected, rtol=1e-5, atol=1e-5)
    # What is drawn has the log-probability that training finds, to the bit.
    uniforms = torch.rand(rows, dtype=torch.float64)
    tokens, drawn, _ = sampling.sample(logits, temperature, 1.0, 0, uniforms)
    ops.head_logprobs(logits, tokens, temperature, logprobs, None, None)
    assert torch.equal(drawn, logprobs)


@needs_native
def test_draws_follow_the_reference() -> None:
    """Both invert the same cumulative distribution; they part only where a number falls within rounding of a border."""
    torch.manual_seed(0)
    logits = torch.randn(400, 1000) * 3
    uniforms = torch.rand(400, dtype=torch.float64)
    tokens, _, _ = sampling.sample(logits, 0.8, 1.0, 0, uniforms)
    reference, _, _ = sampling.sample(logits.double(), 0.8, 1.0, 0, uniforms)
    assert int((tokens != reference).sum()) <= 1
    assert torch.equal(sampling.sample(logits, 0.0, 1.0, 0, uniforms)[0], logits.argmax(-1))


@pytest.mark.parametrize("dtype", DTYPES)
def test_gradients_of_the_head_where_the_objective_is_a_plain_sum(dtype: torch.dtype) -> None:
    """Its gradient is one number that torch repeats without storing it again."""
    torch.manual_seed(0)
    hidden, weight = torch.randn(9, 32).to(dtype), torch.randn(43, 32).to(dtype)
    targets = torch.randint(43, (9,))
    leaves = [t.clone().requires_grad_() for t in (hidden, weight)]
    exact = [t.double().requires_grad_() for t in (hidden, weight)]
    head.head_loss(*leaves, targets, lambda logprobs_C, _: -0.1 * logprobs_C.sum())[0].backward()
    logprobs = torch.log_softmax(exact[0] @ exact[1].t(), -1)
    (-0.1 * logprobs.gather(1, targets[:, None]).sum()).backward()
    for got, right in zip(leaves, exact, strict=True):
        assert got.grad is not None
        assert right.grad is not None
        assert worst(got.grad, right.grad) < 2 * tolerance(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_head_in_chunks_is_the_head_at_once(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    hidden, weight = torch.randn(23, 32).to(dtype), torch.randn(70, 32).to(dtype)
    targets = torch.randint(70, (23,))
    whole = head.token_logprobs(hidden, weight, targets, 0.9)
    monkeypatch.setattr(head, "CHUNK_ROWS", 5)
    for actual, expected in zip(head.token_logprobs(hidden, weight, targets, 0.9), whole, strict=True):
        assert torch.equal(actual, expected)


# --- building ------------------------------------------------------------------------------------------------------


def run_python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, **environment}, check=False
    )


SAY = "from rethink.kernels.native.library import status; print(status().level, '|', status().reason)"


def test_kernels_can_be_turned_off_and_a_wrong_choice_is_refused() -> None:
    done = run_python(SAY, RETHINK_KERNELS="reference")
    assert done.stdout.startswith("reference")
    assert done.stderr == ""
    done = run_python(SAY, RETHINK_KERNELS="fast")
    assert "RETHINK_KERNELS=fast is unknown; allowed: auto, reference, avx2" in done.stderr


@needs_native
def test_without_a_compiler_the_references_serve_and_one_line_says_so(tmp_path: Path) -> None:
    done = run_python(SAY, PATH=str(tmp_path), CXX="", RETHINK_CACHE=str(tmp_path))
    assert done.stdout.startswith("reference | there is no C++ compiler")
    assert len(done.stderr.splitlines()) == 1


@needs_native
def test_a_compiler_that_fails_is_named(tmp_path: Path) -> None:
    fake = tmp_path / "g++"
    fake.write_text(
        "#!/bin/sh\n[ \"$1\" = --version ] && echo broken 1.0 && exit 0\necho 'x.cpp:1: error: no' >&2; exit 1\n"
    )
    fake.chmod(0o755)
    done = run_python(SAY, CXX=str(fake), RETHINK_CACHE=str(tmp_path / "cache"))
    assert done.stdout.startswith(f"reference | they could not be built or loaded with {fake}: x.cpp:1: error: no")
    assert not list((tmp_path / "cache" / "kernels").glob("*/kernels.so"))


@pytest.mark.slow
@needs_native
@pytest.mark.parametrize(
    "chosen",
    [
        pytest.param("rotation or draws or halfway", id="few", marks=pytest.mark.once),
        pytest.param("norm or log_prob or (tree_attention and float32) or update", id="all"),
    ],
)
def test_fp32_kernels_for_avx2_pass_too(chosen: str) -> None:
    chosen = f"({chosen}) and not avx2 and not memory"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", __file__, ADAMW, "-k", chosen, "-p", "no:cacheprovider"],
        env={**os.environ, "RETHINK_KERNELS": "avx2"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:]
    assert "passed" in done.stdout


@pytest.mark.slow
@needs_native
@pytest.mark.parametrize(
    "chosen",
    [
        pytest.param("rotation or draws or chunks or halfway or a_row", id="few", marks=pytest.mark.once),
        pytest.param("products or gradients or tree_attention or norm or log_prob or update", id="all"),
    ],
)
def test_kernels_stay_within_their_memory(chosen: str, tmp_path: Path) -> None:
    """The same tests over a build with AddressSanitizer; its runtime must be loaded before anything else."""
    sanitizer = subprocess.run(
        ["g++", "-print-file-name=libasan.so"], capture_output=True, text=True, check=True
    ).stdout.strip()
    if not Path(sanitizer).is_absolute():
        pytest.skip("the compiler has no AddressSanitizer runtime")
    compiler = tmp_path / "asan-g++"
    compiler.write_text('#!/bin/sh\nexec g++ -fsanitize=address -fno-omit-frame-pointer -g1 "$@"\n')
    compiler.chmod(0o755)
    environment = {
        **os.environ, "LD_PRELOAD": sanitizer, "ASAN_OPTIONS": "detect_leaks=0", "CXX": str(compiler),
        "RETHINK_CACHE": str(tmp_path / "cache"),
    }  # fmt: skip
    chosen = f"({chosen}) and not slow and not avx2 and not compiler and not memory"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", __file__, ADAMW, "-k", chosen,
         "-p", "no:cacheprovider", "--timeout=900"],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    assert "passed" in done.stdout


def test_all_sources_are_in_the_package() -> None:
    assert sorted(p.name for p in HERE.glob("*.cpp")) == sorted(SOURCES)
