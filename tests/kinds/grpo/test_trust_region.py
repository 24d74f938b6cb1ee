"""TRPO on a toy policy over four tokens, against the natural gradient solved densely; whole runs within the bound."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from rethink.errors import RecipeError, UsageError
from rethink.kinds.grpo.estimate import estimate
from rethink.kinds.grpo.recipe import Recipe
from rethink.kinds.grpo.trust_region import Batch, damped, fisher_product, measured, trust_region_step
from rethink.kinds.grpo.update import MiniBatch, accumulate_gradients
from rethink.model.decoder.config import DecoderConfig
from rethink.model.decoder.decoder import Decoder
from rethink.model.decoder.hf_config import expected_shapes
from rethink.model.decoder.packing import PackedGroup, pack
from rethink.model.decoder.tangent import hidden_along
from rethink.plan.estimate import count_parameters, shape_of
from rethink.runs.optimizer import MasterAdamW
from rethink.runs.ranks import Launch, launched_by
from rethink.store.run_folder import RunFolder
from rethink.types import Completion, Problem, Prompt, Rollout, Turn
from tests.kinds.grpo.test_update import recipe
from tests.runs.compare import timeless

TRPO = ("algorithm.type=trpo",)
TEMPERATURE = 0.8
KINDS: list[dict[str, Any]] = [
    {"tie_word_embeddings": True},
    {"tie_word_embeddings": False, "qkv_bias": True},
    {"tie_word_embeddings": False, "qk_norm": True, "num_kv_heads": 2},
]


def toy(**changes: Any) -> Decoder:
    """A policy over a vocabulary of four, in fp64."""
    values = {
        "architecture": "llama", "vocab_size": 4, "hidden_size": 4, "intermediate_size": 6, "num_layers": 2,
        "num_heads": 2, "num_kv_heads": 1, "head_dim": 2, "rms_norm_eps": 1e-5, "rope_theta": 100.0,
        "max_position_embeddings": 32, "tie_word_embeddings": True,
    }  # fmt: skip
    config = DecoderConfig(**{**values, **changes})
    dice = torch.Generator().manual_seed(4)
    shapes = sorted(expected_shapes(config).items())
    return Decoder(
        config, {n: 0.7 * torch.randn(s, generator=dice, dtype=torch.float64) for n, s in shapes}, torch.float64
    )


def groups() -> list[list[Rollout]]:
    """Two prompts, one the beginning of the other, with completions of three tokens; one in turns."""
    made, dice = [], np.random.default_rng(1)
    for ids in ((1, 2), (1, 2, 3)):
        group = []
        for number in range(3):
            tokens, zeros = dice.integers(0, 4, 3).astype(np.int32), np.zeros(3, np.float32)
            said = Completion(tokens, "", zeros, zeros, "stop")
            turns = (Turn(0, 1), Turn(2, 3)) if number == 2 else ()
            group.append(
                Rollout(Problem("", "", "", None), Prompt("", ids), said, {}, 0.0, float(dice.normal()), turns=turns)
            )
        made.append(group)
    return made


def flat(vector: Any) -> Tensor:
    return torch.cat([vector[name].reshape(-1) for name in sorted(vector)])


def random_direction(model: Decoder) -> dict[str, Tensor]:
    dice = torch.Generator().manual_seed(9)
    return {n: torch.randn(p.shape, generator=dice, dtype=p.dtype) for n, p in model.named_parameters()}


@pytest.mark.parametrize("kind", KINDS)
def test_the_derivative_along_a_direction_is_that_of_the_jacobian(kind: dict[str, Any]) -> None:
    """Row by row of the Jacobian, which the kernels' own backward passes give."""
    model = toy(**kind)
    row = pack([PackedGroup(g[0].prompt.token_ids, [r.completion.token_ids.tolist() for r in g]) for g in groups()])
    direction = random_direction(model)
    hidden, change = hidden_along(model, row, direction)
    states = model.hidden(row)
    assert torch.allclose(hidden, states, atol=1e-12)
    names, weights = zip(*model.named_parameters(), strict=True)
    for place in range(states.numel()):
        slopes = torch.autograd.grad(states.reshape(-1)[place], weights, retain_graph=True, allow_unused=True)
        expected = sum(float((s * direction[n]).sum()) for n, s in zip(names, slopes, strict=True) if s is not None)
        assert float(change.reshape(-1)[place]) == pytest.approx(expected, abs=1e-10)


def logits_of(model: Decoder, made: list[list[Rollout]]) -> tuple[Tensor, list[int], list[float]]:
    """Logits of all trained tokens at the temperature, with a graph, one completion at a time; tokens, advantages."""
    rows, tokens, advantages = [], [], []
    for rollout in (r for group in made for r in group):
        ids = rollout.completion.token_ids.tolist()
        packed = pack([PackedGroup(rollout.prompt.token_ids, [ids])])
        use = [i for i in range(len(ids)) if rollout.trained[i]]
        rows.append((model.hidden(packed)[packed.head_rows_C] @ model.head.t() / TEMPERATURE)[use])
        tokens += [ids[i] for i in use]
        advantages += [float(rollout.advantage)] * len(use)
    return torch.cat(rows), tokens, advantages


def dense(model: Decoder, made: list[list[Rollout]]) -> tuple[Tensor, Tensor]:
    """(Fisher matrix [W, W] of the mean KL, gradient [W] of the mean loss), from the Jacobian of all logits."""
    logits, tokens, advantages = logits_of(model, made)
    weights = dict(sorted(model.named_parameters()))
    jacobian = torch.stack([
        flat({n: torch.zeros_like(weights[n]) if s is None else s for n, s in zip(weights, torch.autograd.grad(
            value, list(weights.values()), retain_graph=True, allow_unused=True), strict=True)})
        for value in logits.reshape(-1)
    ]).view(*logits.shape, -1)  # fmt: skip
    p = logits.softmax(-1).detach()
    fisher = sum(j.t() @ (torch.diag(q) - torch.outer(q, q)) @ j for j, q in zip(jacobian, p, strict=True)) / len(p)
    slopes = (torch.nn.functional.one_hot(torch.tensor(tokens), 4) - p) * -torch.tensor(advantages)[:, None] / len(p)
    return fisher, torch.einsum("cv,cvw->w", slopes, jacobian)


def batch_of(model: Decoder, made: list[list[Rollout]], limit: int = 10_000) -> Batch:
    return Batch(model, MasterAdamW(model, recipe().optimizer), made, limit, TEMPERATURE)


def chosen(*options: str) -> Recipe:
    return recipe(*TRPO, f"rollout.temperature={TEMPERATURE}", *options)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("limit", [4, 10_000])
def test_products_with_the_fisher_matrix_are_exact(kind: dict[str, Any], limit: int) -> None:
    model, made = toy(**kind), groups()
    fisher, _ = dense(toy(**kind), made)
    direction = random_direction(model)
    image = flat(damped(lambda v: fisher_product(batch_of(model, made, limit), v), 0.3)(direction))
    assert torch.allclose(image, fisher @ flat(direction) + 0.3 * flat(direction), atol=1e-10)
    assert float((fisher @ flat(direction)).norm()) > 1


@pytest.mark.parametrize("kind", KINDS)
def test_the_step_is_the_natural_gradient_solved_densely(kind: dict[str, Any]) -> None:
    model, made = toy(**kind), groups()
    fisher, gradient = dense(toy(**kind), made)
    solved = torch.linalg.solve(fisher + 0.05 * torch.eye(len(fisher)), gradient)
    full = math.sqrt(2 * 1e-4 / float(solved @ gradient))
    before = flat({n: w.detach().clone() for n, w in model.named_parameters()})
    settings = chosen(*(f"algorithm.options.{n}" for n in ("max_kl=1.0e-4", "damping=0.05", "iterations=300")))
    optimizer = MasterAdamW(model, settings.optimizer)
    stats = accumulate_gradients(settings, model, None, MiniBatch(made), 0, 10_000)
    assert torch.allclose(flat(optimizer.gradients()), gradient, atol=1e-12)
    row = trust_region_step(settings, optimizer, made, 10_000, 0)
    moved = flat(dict(model.named_parameters())).detach() - before
    expected = -full * row["trust_region/share"] * solved
    assert float((moved - expected).norm()) < 1e-4 * float(expected.norm())
    assert float(moved.norm()) > 1e-3
    assert row["trust_region/residual"] < 1e-5
    assert row["optimizer/grad_norm"] == pytest.approx(float(gradient.norm()))
    assert all((g == 0).all() for g in optimizer.gradients().values())
    # What it says of the step, from all logits of the policy before and after.
    old, tokens, advantages = logits_of(toy(**kind), made)
    old, new = old.detach(), logits_of(model, made)[0].detach()
    p, log_p, log_new = old.softmax(-1), old.log_softmax(-1), new.log_softmax(-1)
    kl = float((p * (log_p - log_new)).sum(-1).mean())
    places = torch.arange(len(tokens))
    ratio = (log_new - log_p)[places, tokens].exp()
    assert row["trust_region/kl"] == pytest.approx(kl, rel=1e-6)
    assert 0 < kl <= 1e-4
    assert row["trust_region/gain"] == pytest.approx(float(((ratio - 1) * torch.tensor(advantages)).mean()), rel=1e-6)
    assert stats.loss == pytest.approx(-float(np.mean(advantages)))


def test_the_bound_holds_and_a_step_that_gains_nothing_is_not_taken() -> None:
    """A bound so wide that the quadratic model of the KL is wrong: steps are halved until the measured one holds."""
    shares = []
    for bound in ("1.0e-3", "0.5", "20"):
        model, made = toy(), groups()
        settings = chosen(f"algorithm.options.max_kl={bound}")
        optimizer = MasterAdamW(model, settings.optimizer)
        accumulate_gradients(settings, model, None, MiniBatch(made), 0, 10_000)
        batch = batch_of(toy(), made)
        known = [batch.model.hidden(m.batch)[m.batch.head_rows_C].detach() for m, _ in batch.micro_batches()]
        row = trust_region_step(settings, optimizer, made, 10_000, 0)
        kl, gain = measured(Batch(model, optimizer, made, 10_000, TEMPERATURE), known, batch.model.head.detach())
        assert row["trust_region/kl"] == pytest.approx(kl)
        assert kl <= float(bound)
        assert row["trust_region/gain"] == pytest.approx(gain)
        shares.append(row["trust_region/share"])
    assert shares[0] == 1.0
    assert 0 < shares[2] < 1
    model = toy()
    before = {name: w.detach().clone() for name, w in model.named_parameters()}
    settings = chosen("algorithm.options.backtracks=0", "algorithm.options.max_kl=1000")
    optimizer = MasterAdamW(model, settings.optimizer)
    accumulate_gradients(settings, model, None, MiniBatch(made), 0, 10_000)
    row = trust_region_step(settings, optimizer, made, 10_000, 0)
    assert row["trust_region/share"] == row["trust_region/kl"] == 0
    assert all(torch.equal(before[name], w) for name, w in model.named_parameters())


# --- recipes and runs ------------------------------------------------------------------------------------------------

RUN = (
    "algorithm={type: trpo}",
    "steps=3",
    "optimizer.warmup_steps=0",
    "evaluation={problems: 0}",
    "checkpoint.every=1",
)


def test_every_step_of_a_run_keeps_to_its_bound_and_resumes(run: Callable[..., Any], tmp_path: Path) -> None:
    out, whole = tmp_path / "out", tmp_path / "whole"
    run(whole, *RUN)
    rows = RunFolder.open(whole).metrics()[1:]
    assert all(0 <= row["trust_region/kl"] <= 0.01 for row in rows)
    assert any(row["trust_region/kl"] > 1e-3 for row in rows)
    assert all("optimizer/learning_rate" not in row for row in rows)
    run(out, *RUN, "steps=2")
    run(out, *RUN, resume=True)
    assert timeless(RunFolder.open(out)) == timeless(RunFolder.open(whole))
    assert (out / "model/model.safetensors").read_bytes() == (whole / "model/model.safetensors").read_bytes()


def test_it_trains_with_a_critic(run: Callable[..., Any], tmp_path: Path) -> None:
    run(tmp_path / "out", *RUN, "steps=1", "algorithm={type: trpo, advantage: gae}", "critic={}")
    row = RunFolder.open(tmp_path / "out").metrics()[-1]
    assert row["critic/grad_norm"] > 0
    assert 0 < row["trust_region/kl"] <= 0.01


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["model.dtype=bfloat16"], "`model.dtype` is `bfloat16`.*model.dtype=float32"),
        (["optimizer.lanes=2"], "`optimizer.lanes` is 2.*Remove it"),
        (["algorithm.beta=0.1"], "`algorithm.beta` is `0.1`, which cannot be set"),
        (["algorithm.epochs=2"], "one update a rollout batch"),
        (["algorithm.options.damping=0"], "`algorithm.options.damping` is 0"),
    ],
)
def test_what_it_cannot_do_is_refused(overrides: list[str], words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        recipe(*TRPO, *overrides)


def test_it_computes_in_fp32() -> None:
    assert recipe(*TRPO).model.dtype == "float32"
    assert recipe(*TRPO, "model.dtype=float32") == recipe(*TRPO)
    assert recipe().model.dtype == "auto"


def test_ranks_are_refused(run: Callable[..., Any], tmp_path: Path) -> None:
    def start(shared: object) -> Any:
        raise AssertionError

    with launched_by(Launch(2, 1, start)), pytest.raises(UsageError, match="cannot be shared among trainer ranks"):
        run(tmp_path / "out", *RUN)


def test_the_plan_counts_its_products_and_vectors() -> None:
    shape = shape_of(toy().config)
    plain, trpo = (estimate(recipe(*o), shape) for o in (["model.dtype=float32", "algorithm.aggregation=token"], TRPO))
    assert trpo.memory.weights - plain.memory.weights == 24 * count_parameters(shape).total
    assert trpo.phases[0].training_flops == pytest.approx(plain.phases[0].training_flops * (3 + 62) / 3)
