"""The sampling mask: what top-p and top-k left to draw from is stored, and training renormalises over it. Compared with
a dense reference."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from rethink.errors import RecipeError
from rethink.kernels.head import Extra, Kept, head_loss, token_logprobs
from rethink.kernels.sampling import sample
from rethink.kinds.grpo.update import MiniBatch, compute_logprobs
from rethink.kinds.grpo.wire import pack, unpack
from rethink.model.build import build_model
from rethink.model.loading import load_checkpoint
from rethink.store.run_folder import RunFolder
from tests.distributed.local_ranks import local_ranks
from tests.distributed.local_workers import local_workers
from tests.kinds.grpo.test_update import recipe

Run = Callable[..., dict[str, Any]]


def dense(logits_CV: Tensor, kept: list[np.ndarray], temperature: float) -> Tensor:
    """[C, V] log-probabilities, -inf where cut."""
    mask = torch.full_like(logits_CV, -torch.inf)
    for row, ids in enumerate(kept):
        mask[row, torch.from_numpy(ids).long()] = 0.0
    return (logits_CV / temperature + mask).log_softmax(-1)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("whole", [False, True])
def test_log_probabilities_and_gradients_are_those_of_the_dense_form(dtype: torch.dtype, whole: bool) -> None:
    torch.manual_seed(0)
    c, e, v, temperature = 600, 64, 320, 0.7  # more than a chunk
    hidden, weight = (torch.randn(n, e, dtype=dtype).requires_grad_() for n in (c, v))
    dice = np.random.default_rng(0)
    kept = [np.sort(dice.choice(v, dice.integers(1, 40), replace=False)).astype(np.int32) for _ in range(c)]
    targets = torch.tensor([int(dice.choice(ids)) for ids in kept])
    cut = Kept(torch.tensor([len(ids) for ids in kept]), torch.from_numpy(np.concatenate(kept)).long())
    slopes = torch.randn(c, dtype=torch.float64)

    def objective(logprobs: Tensor, part: slice) -> Tensor:
        return (slopes[part].to(logprobs.dtype) * logprobs).sum()

    loss, logprobs, entropies = head_loss(hidden, weight, targets, objective, temperature, whole, Extra(cut=cut))
    made = torch.autograd.grad(loss, (hidden, weight))
    exact_hidden, exact_weight = (t.detach().double().requires_grad_() for t in (hidden, weight))
    expected = dense(exact_hidden @ exact_weight.t(), kept, temperature)
    chosen = expected.gather(1, targets[:, None])[:, 0]
    close = {torch.float64: 1e-10, torch.float32: 2e-4, torch.bfloat16: 0.3}[dtype]
    assert torch.allclose(logprobs.double(), chosen.detach(), atol=close)
    plain = token_logprobs(hidden.detach(), weight.detach(), targets, temperature, cut)
    assert torch.equal(plain[0], logprobs)
    probabilities = expected.detach().exp()
    entropy = -(probabilities * expected.detach().clamp(min=-1e3)).sum(-1)
    assert torch.allclose(entropies.double(), entropy, atol=close)
    wanted = torch.autograd.grad((slopes * chosen).sum(), (exact_hidden, exact_weight))
    for one, other in zip(made, wanted, strict=True):
        assert float((one.double() - other).norm() / other.norm()) < {torch.bfloat16: 0.03}.get(dtype, 1e-5)
    never = [i for i in range(v) if all(i not in ids for ids in kept)]
    assert not made[1][never].any()


@settings(max_examples=25)
@given(st.integers(0, 2**31), st.sampled_from([(0.5, 0), (0.9, 0), (1.0, 5), (0.8, 5)]), st.sampled_from([0.5, 1.0]))
def test_the_mask_is_what_was_drawn_from(seed: int, bounds: tuple[float, int], temperature: float) -> None:
    top_p, top_k = bounds
    noise = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(4, 50, generator=noise)
    masks: list[np.ndarray] = []
    tokens, _, sampled = sample(logits, temperature, top_p, top_k, torch.rand(4, generator=noise), masks)
    for row, ids in enumerate(masks):
        shares = (logits[row].double() / temperature).softmax(-1)
        order = shares.argsort(descending=True)[: top_k or None]
        within = shares[order] / shares[order].sum()
        wanted = order[(within.cumsum(-1) - within) < top_p]
        assert ids.tolist() == sorted(wanted.tolist())
        assert int(tokens[row]) in ids
    there = dense(logits.double(), masks, temperature).gather(1, tokens[:, None])[:, 0]
    assert torch.allclose(sampled.double(), there, atol=1e-5)


CUT = ("rollout.top_p=0.9", "rollout.top_k=12", "rollout.keep_sampling_mask=true")
SHORT = (
    "algorithm={mini_batches: 2, epochs: 2, beta: 0.1}",
    "optimizer={learning_rate: 1.0e-3}",
    "evaluation={problems: 0}",
)


@pytest.mark.parametrize("engine", ["torch", "transformers"])
def test_trainer_and_engine_agree_on_truncated_samples(
    run: Run, tmp_path: Path, tiny_folder: Callable[..., Path], engine: str
) -> None:
    run(tmp_path / "out", *CUT, *SHORT, "steps=4", f"rollout.engine={engine}")
    folder = RunFolder.open(tmp_path / "out")
    row = folder.metrics()[1]
    assert row["policy/mismatch_max"] < 1e-4
    assert abs(row["policy/ratio_mean"] - 1) < 1e-5
    assert row["policy/entropy"] < np.log(12)
    rollouts = folder.read_rollouts(0) or []
    groups = [rollouts[i : i + 3] for i in range(0, 12, 3)]
    for rollout in rollouts:
        mask = rollout.completion.mask
        assert mask is not None
        assert mask.counts.max() <= 12
        assert mask.counts.sum() == len(mask.ids)
    model = build_model(load_checkpoint(str(tiny_folder("llama"))), "float32", "cpu")
    values = compute_logprobs(model, groups, 1.0, 30)
    for rollout, value in zip(rollouts, values, strict=True):
        assert np.allclose(value.numpy(), rollout.completion.sampled_logprobs, atol=1e-4)
        assert not np.allclose(value.numpy(), rollout.completion.logprobs, atol=1e-2)
    sent = unpack(pack(MiniBatch(groups).lanes(1)[0]))
    for there, here in zip((r for group in sent.groups for r in group), rollouts, strict=True):
        assert there.completion.mask is not None
        assert here.completion.mask is not None
        assert there.completion.mask.ids.tolist() == here.completion.mask.ids.tolist()
        assert there.completion.mask.counts.tolist() == here.completion.mask.counts.tolist()
        assert there.completion.logprobs.tolist() == here.completion.sampled_logprobs.tolist()


@pytest.mark.slow
def test_ranks_and_workers_give_the_bits_of_one_process(
    run: Run, tmp_path: Path, recipe_file: Path, tiny_folder: Callable[..., Path]
) -> None:
    exact = tiny_folder("llama", "exact", head_dim=64, hidden_size=64)
    options = (*CUT, *SHORT, f"model.path={exact}", "model.dtype=bfloat16", "optimizer.lanes=2", "rollout.lag=1",
               "algorithm.correction=tis", "checkpoint={every: 3, keep: 9}")  # fmt: skip
    run(tmp_path / "alone", *options)
    with local_ranks(2), local_workers():
        run(tmp_path / "spread", *options)
    weights = [(tmp_path / name / "model/model.safetensors").read_bytes() for name in ("alone", "spread")]
    assert weights[0] == weights[1]


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (
            ["rollout.keep_sampling_mask=true"],
            "has no effect, since `rollout.top_p` 1 and `rollout.top_k` 0 cut nothing",
        ),
        ([*CUT, "rollout.allow_truncated=true"], "Remove one"),
        ([*CUT, "rollout.engine=vllm", "algorithm.correction=none"], "`vllm` .`rollout.engine`. does not"),
        (["rollout.top_p=0.9"], "rollout.keep_sampling_mask=true"),
    ],
)
def test_what_makes_no_sense_is_refused(overrides: list[str], said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        recipe(*overrides)


def test_a_mask_goes_with_a_lag_and_a_correction() -> None:
    assert recipe(*CUT, "rollout.lag=1", "algorithm.correction=tis").rollout.keep_sampling_mask
