"""Accumulation, packing and left-out groups change memory and time, never the update. In fp64, with old
log-probabilities that differ from the current ones, so that ratios and clipping take part."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from rethink.errors import NumericsError
from rethink.kinds.grpo.recipe import Recipe
from rethink.kinds.grpo.update import MiniBatch, accumulate_gradients, compute_logprobs, micro_batches
from rethink.model.build import build_model, exact_weights
from rethink.model.decoder.decoder import Decoder
from rethink.model.decoder.packing import PackedGroup, pack
from rethink.model.loading import Checkpoint, load_checkpoint
from rethink.recipe.recipe_files import parse_recipe
from rethink.runs.optimizer import MasterAdamW
from rethink.types import Completion, Problem, Prompt, Rollout, Turn

TEXT = """\
name: t
steps: 10
tasks: [{kind: reasoning-gym, name: chain_sum}]
rollout: {prompts_per_batch: 4, group_size: 4, max_new_tokens: 12}
"""
LIMITS = (8, 23, 60, 10_000)


@pytest.fixture
def checkpoint(tiny_folder: Callable[..., Path]) -> Checkpoint:
    return load_checkpoint(str(tiny_folder("qwen3")))


def recipe(*overrides: str) -> Recipe:
    return parse_recipe(TEXT, "test", overrides)


def groups() -> list[list[Rollout]]:
    """Four prompts, four completions each, lengths 1 to 12; one group without signal."""
    dice = random.Random(5)
    problem = Problem("p", "t", "q", "a")
    made = []
    for g in range(4):
        prompt = Prompt("", tuple(dice.randrange(1, 900) for _ in range(dice.randrange(1, 9))))
        group = []
        for _ in range(4):
            size = dice.choice([1, 2, 5, 12])
            logprobs = np.zeros(size, np.float32)
            ids = np.array([dice.randrange(1, 900) for _ in range(size)], np.int32)
            completion = Completion(ids, "", logprobs, logprobs, "stop")
            advantage = 0.0 if g == 2 else dice.uniform(-2, 2)
            group.append(Rollout(problem, prompt, completion, {}, 0.0, advantage))
        made.append(group)
    return made


def gradients(
    chosen: Recipe,
    checkpoint: Checkpoint,
    made: list[list[Rollout]],
    limit: int,
    skip: list[bool],
    beta: float | None = None,
) -> tuple[float, dict[str, Tensor], dict[str, float]]:
    assert checkpoint.config is not None
    model = Decoder(checkpoint.config, checkpoint.tensors, torch.float64, "cpu")
    reference = model.clone() if chosen.algorithm.beta > 0 else None
    if reference is not None:
        with torch.no_grad():
            for _, parameter in reference.named_parameters():
                parameter += 0.02
    noise = torch.Generator().manual_seed(3)
    shaken = [
        torch.randn(len(old), generator=noise, dtype=torch.float64) * 0.3 + old
        for old in compute_logprobs(model, made, 1.0, 10_000)
    ]
    optimizer = MasterAdamW(model, chosen.optimizer)
    stats = accumulate_gradients(chosen, model, reference, MiniBatch(made, shaken, skip, beta=beta), 0, limit)
    return stats.loss, {k: g.clone() for k, g in optimizer.gradients().items()}, stats.metrics(chosen.algorithm)


@pytest.mark.parametrize("beta", [0.0, 0.3])
def test_the_loss_is_that_of_the_formula(checkpoint: Checkpoint, beta: float) -> None:
    """GRPO's objective (DeepSeek-R1, equation 1) token by token, from logits of rollouts computed one by one: new and
    reference log-probabilities at the sampling temperature, ratios against the old ones that are given."""
    chosen, made = recipe(f"algorithm.beta={beta}", "rollout.temperature=0.6", "algorithm.epochs=2"), groups()
    assert checkpoint.config is not None
    model = Decoder(checkpoint.config, checkpoint.tensors, torch.float64, "cpu")
    reference = model.clone()
    with torch.no_grad():
        for _, parameter in reference.named_parameters():
            parameter += 0.02
    noise = torch.Generator().manual_seed(3)
    old, expected = [], 0.0
    for rollout in (r for group in made for r in group):
        new, other = (tempered(m, rollout, 0.6) for m in (model, reference))
        old.append(new + 0.3 * torch.randn(len(new), generator=noise, dtype=torch.float64))
        ratio = (new - old[-1]).exp()
        low, high = 1 - chosen.algorithm.clip_low, 1 + chosen.algorithm.clip_high
        gain = torch.minimum(ratio * rollout.advantage, ratio.clamp(low, high) * rollout.advantage)
        kl = (other - new).exp() - (other - new) - 1
        expected -= float((gain - beta * kl).mean()) / 16
    MasterAdamW(model, chosen.optimizer)
    stats = accumulate_gradients(chosen, model, reference if beta else None, MiniBatch(made, old), 0, 40)
    assert stats.loss == pytest.approx(expected, abs=1e-9)
    assert abs(expected) > 1e-3


@pytest.mark.parametrize("kind", ["grpo", "gspo", "dapo"])
def test_tokens_that_the_policy_did_not_sample_are_not_trained_on(checkpoint: Checkpoint, kind: str) -> None:
    """The formula, written out over the tokens of the turns alone, with advantages of each token. What the engine and
    the old policy say of the others is NaN: nothing may read it."""
    chosen = recipe(f"algorithm.type={kind}", "algorithm.correction=sequence-tis", "algorithm.epochs=2")
    assert checkpoint.config is not None
    model = Decoder(checkpoint.config, checkpoint.tensors, torch.float64, "cpu")
    optimizer = MasterAdamW(model, chosen.optimizer)
    noise = torch.Generator().manual_seed(3)
    made = [[with_turns(rollout) for rollout in group] for group in groups()]
    rollouts = [rollout for group in made for rollout in group]
    trained = sum(int(rollout.trained.sum()) for rollout in rollouts)
    assert 0 < trained < sum(len(rollout.completion.token_ids) for rollout in rollouts)
    old, expected, entropies, gaps = [], 0.0, [], []
    low, high = 1 - chosen.algorithm.clip_low, 1 + chosen.algorithm.clip_high
    for rollout in rollouts:
        mask = torch.from_numpy(rollout.trained)
        now = tempered(model, rollout, 1.0)
        before = (now + 0.3 * torch.randn(len(now), generator=noise))[mask]
        engine = torch.from_numpy(rollout.completion.logprobs)[mask]
        advantage = torch.as_tensor(rollout.advantage, dtype=torch.float64).broadcast_to(mask.shape)[mask]
        weight = (before - engine).sum().exp().clamp(max=2.0)

        def formula(logprobs: Tensor, part: slice) -> Tensor:
            log_ratio = logprobs[mask] - before  # noqa: B023 (called at once)
            ratio = log_ratio.mean().exp() if kind == "gspo" else log_ratio.exp()
            gain = weight * torch.minimum(ratio * advantage, ratio.clamp(low, high) * advantage)  # noqa: B023
            return -gain.sum() / trained if kind == "dapo" else -gain.mean() / 16

        batch = pack([PackedGroup(rollout.prompt.token_ids, [rollout.completion.token_ids.tolist()])], model.device)
        loss, _, entropy = model.completion_loss(batch, formula, whole=True)
        loss.backward()
        expected += float(loss.detach())
        old.append(torch.full_like(now, math.nan).masked_scatter(mask, before))
        entropies.append(entropy[mask])
        gaps.append((now[mask] - engine).abs())
    wanted = {name: gradient.clone() for name, gradient in optimizer.gradients().items()}
    for limit in (23, 10_000):
        torch._foreach_zero_(list(optimizer.gradients().values()))
        stats = accumulate_gradients(chosen, model, None, MiniBatch(made, old), 0, limit)
        assert stats.tokens == trained
        assert stats.loss == pytest.approx(expected, abs=1e-9)
        metrics = stats.metrics(chosen.algorithm)
        assert metrics["policy/entropy"] == pytest.approx(float(torch.cat(entropies).mean()), abs=1e-9)
        assert metrics["policy/mismatch"] == pytest.approx(float(torch.cat(gaps).mean()), abs=1e-9)
        close(optimizer.gradients(), wanted, 1e-9)
    assert max(float(value.abs().max()) for value in wanted.values()) > 1e-4


def with_turns(rollout: Rollout) -> Rollout:
    """Longer completions in two turns with a text between them, and an advantage of each token."""
    size = len(rollout.completion.token_ids)
    dice = np.random.default_rng(size)
    said = replace(rollout.completion, logprobs=dice.normal(-4, 1, size).astype(np.float32))
    if size < 5:
        return replace(rollout, completion=said)
    turned = replace(rollout, turns=(Turn(0, 2), Turn(size - 2, size)), advantage=dice.normal(size=size))
    said.logprobs[~turned.trained] = math.nan
    return replace(turned, completion=said)


def tempered(model: Decoder, rollout: Rollout, temperature: float) -> Tensor:
    """Log-probabilities of a rollout's tokens, from all logits."""
    completion = rollout.completion.token_ids.tolist()
    batch = pack([PackedGroup(rollout.prompt.token_ids, [completion])], torch.device("cpu"))
    logits = model.logits(batch)[len(rollout.prompt.token_ids) - 1 :]
    return (logits / temperature).log_softmax(-1)[range(len(completion)), completion]


def test_old_log_probabilities_of_none_are_the_current_ones(checkpoint: Checkpoint) -> None:
    chosen, made = recipe("rollout.temperature=0.6"), groups()
    assert checkpoint.config is not None
    model = Decoder(checkpoint.config, checkpoint.tensors, torch.float64, "cpu")
    optimizer = MasterAdamW(model, chosen.optimizer)
    found = []
    for old in (None, compute_logprobs(model, made, 0.6, 40)):
        stats = accumulate_gradients(chosen, model, None, MiniBatch(made, old), 0, 40)
        found.append((stats.metrics(chosen.algorithm), {k: g.clone() for k, g in optimizer.gradients().items()}))
        torch._foreach_zero_(list(optimizer.gradients().values()))
    assert found[0][0] == pytest.approx(found[1][0], abs=1e-9)
    assert max(float(g.abs().max()) for g in found[0][1].values()) > 1e-4
    close(found[0][1], found[1][1], 1e-9)


def close(one: dict[str, Tensor], two: dict[str, Tensor], tolerance: float = 1e-11) -> None:
    for name, gradient in one.items():
        scale = gradient.abs().max().clamp_min(1e-30)
        assert (gradient - two[name]).abs().max() <= tolerance * scale, name


@pytest.mark.parametrize(
    "setting",
    [
        *(f"aggregation={aggregation}" for aggregation in ("sequence", "token", "fixed")),
        *("type=gmpo", "type=sapo", "kl=unbiased-k3", "off_policy_mask=0.1"),
    ],
)
def test_micro_batches_change_nothing(checkpoint: Checkpoint, setting: str) -> None:
    chosen, made = recipe(f"algorithm.{setting}", "algorithm.beta=0.1", "algorithm.epochs=2"), groups()
    results = [gradients(chosen, checkpoint, made, limit, [False] * 4) for limit in LIMITS]
    loss, whole, metrics = results[-1]
    assert abs(loss) > 1e-3
    for other_loss, other, other_metrics in results[:-1]:
        assert other_loss == pytest.approx(loss, abs=1e-12)
        close(whole, other)
        assert other_metrics == pytest.approx(metrics, rel=1e-9, abs=1e-12)


def test_the_order_of_groups_changes_nothing(checkpoint: Checkpoint) -> None:
    chosen, made = recipe(), groups()
    assert checkpoint.config is not None
    model = Decoder(checkpoint.config, checkpoint.tensors, torch.float64, "cpu")
    old = [v + 0.1 * i for i, v in enumerate(compute_logprobs(model, made, 1.0, 99))]
    optimizer = MasterAdamW(model, chosen.optimizer)
    found = []
    for order in ([0, 1, 2, 3], [3, 1, 0, 2]):
        olds = [old[4 * i + n] for i in order for n in range(4)]
        stats = accumulate_gradients(chosen, model, None, MiniBatch([made[i] for i in order], olds), 0, 40)
        found.append((stats.loss, {k: g.clone() for k, g in optimizer.gradients().items()}))
        torch._foreach_zero_(list(optimizer.gradients().values()))
    assert found[0][0] == pytest.approx(found[1][0], abs=1e-12)
    close(found[0][1], found[1][1])


@pytest.mark.parametrize("aggregation", ["sequence", "token", "fixed"])
def test_groups_without_signal_may_be_left_out(checkpoint: Checkpoint, aggregation: str) -> None:
    chosen, made = recipe(f"algorithm.aggregation={aggregation}"), groups()
    loss, whole, _ = gradients(chosen, checkpoint, made, 40, [False] * 4)
    shorter_loss, shorter, _ = gradients(chosen, checkpoint, made, 40, [False, False, True, False])
    assert shorter_loss == pytest.approx(loss, abs=1e-12)
    close(whole, shorter)


def test_a_batch_keeps_the_token_limit_it_was_sampled_with(checkpoint: Checkpoint) -> None:
    assert checkpoint.config is not None
    limits = "rollout.max_new_tokens={0: 12, 1: 24}"
    chosen, made = recipe("algorithm.aggregation=fixed", "algorithm.mini_batches=2", limits), groups()
    model = Decoder(checkpoint.config, checkpoint.tensors, torch.float64, "cpu")
    MasterAdamW(model, chosen.optimizer)
    losses = [accumulate_gradients(chosen, model, None, MiniBatch(made), s, 99).loss for s in (0, 1, 2)]
    assert losses[0] == pytest.approx(losses[1])
    assert losses[2] == pytest.approx(losses[0] / 2)


def test_without_old_values_the_current_ones_stand_for_them(checkpoint: Checkpoint) -> None:
    """The first update of a batch: every ratio is 1, and the gradient is that of a ratio, not 0."""
    assert checkpoint.config is not None
    model, made = Decoder(checkpoint.config, checkpoint.tensors, torch.float64, "cpu"), groups()
    optimizer = MasterAdamW(model, recipe().optimizer)
    found = []
    for old in (None, compute_logprobs(model, made, 1.0, 99)):
        stats = accumulate_gradients(recipe(), model, None, MiniBatch(made, old), 0, 40)
        assert stats.ratio_max == pytest.approx(1, abs=1e-9)
        found.append({k: g.clone() for k, g in optimizer.gradients().items()})
        torch._foreach_zero_(list(optimizer.gradients().values()))
    assert max(float(gradient.abs().max()) for gradient in found[0].values()) > 1e-3
    close(found[1], found[0], 1e-9)


def test_the_largest_ratio_is_that_of_all_micro_batches(checkpoint: Checkpoint) -> None:
    """Wherever it stands: here once in the first one and once in the last."""
    assert checkpoint.config is not None
    model, made = Decoder(checkpoint.config, checkpoint.tensors, torch.float64, "cpu"), groups()
    MasterAdamW(model, recipe().optimizer)
    now = compute_logprobs(model, made, 1.0, 99)
    for changed in (0, len(now) - 1):
        old = [logprobs - 0.5 * (i == changed) for i, logprobs in enumerate(now)]
        stats = accumulate_gradients(recipe(), model, None, MiniBatch(made, old), 0, 1)
        assert stats.ratio_max == pytest.approx(math.exp(0.5), rel=1e-9)


def test_the_mismatch_with_the_engine_has_no_sign(checkpoint: Checkpoint) -> None:
    """The engine a quarter above the trainer for one half of the completions, a quarter below for the other."""
    assert checkpoint.config is not None
    model, made = Decoder(checkpoint.config, checkpoint.tensors, torch.float64, "cpu"), groups()
    MasterAdamW(model, recipe().optimizer)
    ours = compute_logprobs(model, made, 1.0, 99)
    for g, group in enumerate(made):
        for i, rollout in enumerate(group):
            engine = (ours[4 * g + i] + (0.25 if i % 2 else -0.25)).float().numpy()
            group[i] = replace(rollout, completion=replace(rollout.completion, logprobs=engine))
    below = [group[::2] for group in made]
    for chosen in (made, below):
        stats = accumulate_gradients(recipe(), model, None, MiniBatch(chosen), 0, 40).metrics(recipe().algorithm)
        assert stats["policy/mismatch"] == pytest.approx(0.25, abs=1e-5)
        assert stats["policy/mismatch_max"] == pytest.approx(0.25, abs=1e-5)


def test_the_limit_is_kept_and_nothing_is_lost() -> None:
    made = groups()
    for limit in LIMITS:
        seen = []
        for micro in micro_batches(made, limit, torch.device("cpu")):
            assert micro.batch.input_tokens <= limit or len(micro.rollouts) == 1
            seen += micro.rollouts
        assert seen == [r for group in made for r in group]


def test_a_loss_that_is_not_finite_stops_before_the_update(checkpoint: Checkpoint) -> None:
    made = groups()
    made[0][0] = replace(made[0][0], advantage=float("nan"))
    with pytest.raises(NumericsError, match="step 1 is nan"):
        gradients(recipe(), checkpoint, made, 40, [False] * 4)


def test_a_gradient_that_is_not_finite_changes_nothing(checkpoint: Checkpoint) -> None:
    assert checkpoint.config is not None
    model = Decoder(checkpoint.config, checkpoint.tensors, torch.float32, "cpu")
    optimizer = MasterAdamW(model, recipe().optimizer)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    next(iter(optimizer.gradients().values())).fill_(float("inf"))
    with pytest.raises(NumericsError, match="not finite"):
        optimizer.step(0.1)
    assert all(torch.equal(before[name], p) for name, p in model.named_parameters())


def test_masters_start_from_the_checkpoints_own_values(checkpoint: Checkpoint) -> None:
    """Rounded to bf16 first, small updates would be lost until they add up to half an interval."""
    model = build_model(checkpoint, "bfloat16", "cpu")
    assert isinstance(model, Decoder)
    optimizer = MasterAdamW(model, recipe().optimizer, exact_weights(checkpoint, model))
    rounded = 0
    for name, weight in model.named_parameters():
        assert torch.equal(optimizer.masters()[name].to(weight.dtype), weight), name
        rounded += not torch.equal(optimizer.masters()[name], weight.detach().float())
    assert rounded > 5
    assert exact_weights(checkpoint, build_model(checkpoint, "float32", "cpu")) == {}
