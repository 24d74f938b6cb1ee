"""A choice of tokens is that of the whole mini-batch, however it is cut, and the update is that of the formula."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from rethink.kinds.grpo.choice import decided
from rethink.kinds.grpo.recipe import Recipe
from rethink.kinds.grpo.update import MiniBatch, UpdateStats, accumulate_gradients
from rethink.kinds.grpo.wire import LANES
from rethink.model.decoder.decoder import Decoder
from rethink.runs.optimizer import MasterAdamW
from rethink.runs.rounds import train_lanes
from rethink.seeds import draw
from tests.algorithms import papers
from tests.kinds.grpo.test_objectives import TEMPERATURE, decoder, logprobs_with_graph
from tests.kinds.grpo.test_update import checkpoint, close, groups, recipe  # noqa: F401 (a fixture)

SETTINGS = {
    "entropy": ("algorithm.top_entropy=0.3",),
    "clip": ("algorithm.covariance=clip", "algorithm.options={cov_share: 0.2, cov_low: 0, cov_high: 9}"),
    "kl": ("algorithm.covariance=kl", "algorithm.options={cov_share: 0.2, cov_weight: 0.7}"),
    "bonus": ("algorithm.entropy_bonus=0.3",),
}
PLAIN = ("algorithm.epochs=2", "algorithm.aggregation=token", f"rollout.temperature={TEMPERATURE}")
STEP = 3


def entropies_of(model: Decoder, rollout: Any) -> Tensor:
    from rethink.model.decoder.packing import PackedGroup, pack

    batch = pack([PackedGroup(rollout.prompt.token_ids, [rollout.completion.token_ids.tolist()])])
    logprobs = (model.hidden(batch)[batch.head_rows_C] @ model.head.t() / TEMPERATURE).log_softmax(-1)
    return -(logprobs.exp() * logprobs).sum(-1)


def expected(chosen: Recipe, model: Decoder, made: list[Any], old: list[Tensor], which: str) -> float:
    """The loss by the papers, token by token, of the groups with advantages; its gradient is in the parameters."""
    rollouts = [r for group in made for r in group]
    total = sum(len(r.completion.token_ids) for r in rollouts)
    rows = [(r, before) for r, before in zip(rollouts, old, strict=True) if r.advantage or which == "bonus"]
    new = torch.cat([logprobs_with_graph(model, r) for r, _ in rows])
    before = torch.cat([one for _, one in rows])
    advantages = [float(r.advantage) for r, one in rows for _ in one]
    count, policy, penalty = len(new), torch.ones(len(new)), torch.zeros(len(new))
    entropies_T = torch.cat([entropies_of(model, r) for r, _ in rows])
    covariances = papers.covariances(new.tolist(), advantages)
    if which == "entropy":
        entropies = entropies_T.tolist()
        policy[[i for i in range(count) if entropies[i] < sorted(entropies)[-math.ceil(0.3 * count)]]] = 0
    elif which == "clip":
        between = [i for i in range(count) if 0 < covariances[i] < 9]
        order = torch.randperm(len(between), generator=torch.Generator().manual_seed(draw("covariance", 0, STEP)))
        policy[[between[i] for i in order[: int(0.2 * count)]]] = 0
    elif which == "kl":
        penalty[sorted(range(count), key=lambda i: covariances[i])[-int(0.2 * count) :]] = 0.7
    ratio, a = (new - before).exp(), torch.tensor(advantages)
    loss = -policy * torch.minimum(ratio * a, ratio.clamp(0.8, 1.2) * a) + penalty * (new - before).abs()
    value = (loss - 0.3 * entropies_T * (which == "bonus")).sum() / total
    value.backward()
    return value.item()


@pytest.mark.parametrize("which", SETTINGS)
def test_the_update_is_that_of_the_papers_however_it_is_cut(checkpoint: Any, which: str) -> None:  # noqa: F811
    chosen, made = recipe(*SETTINGS[which], *PLAIN), groups()
    plain, noise = decoder(checkpoint), torch.Generator().manual_seed(5)
    for _, parameter in plain.named_parameters():
        parameter.requires_grad_()
    old = []
    for rollout in (r for group in made for r in group):
        with torch.no_grad():
            new = logprobs_with_graph(plain, rollout)
        old.append(new + 0.2 * torch.randn(len(new), generator=noise, dtype=torch.float64))
    value = expected(chosen, plain, made, old, which)
    wanted = {name: parameter.grad for name, parameter in plain.named_parameters()}

    skip = [not (chosen.algorithm.moves_all_groups or any(r.advantage for r in group)) for group in made]
    for limit, number in ((8, 1), (60, 3), (10_000, 1)):
        model = decoder(checkpoint)
        optimizer = MasterAdamW(model, chosen.optimizer, lanes=number)
        whole = decided(chosen, model, MiniBatch(made, old, skip), STEP, limit)
        compute = partial(accumulate_gradients, chosen, model, None, step=STEP, limit=limit)
        lanes = [LANES.unpack(LANES.pack(lane)) for lane in whole.lanes(number)]  # as on another rank
        stats = UpdateStats.merged(train_lanes(optimizer, lanes, compute, LANES, STEP))
        assert stats.loss == pytest.approx(value, abs=1e-6 * abs(value))
        close(wanted, dict(optimizer._totals), 1e-6)
        share = stats.metrics(chosen.algorithm).get("policy/chosen")
        assert share == pytest.approx({"entropy": 0.3, "clip": 0.8, "kl": 1.0, "bonus": None}[which], abs=0.04)
    assert max(float(gradient.abs().max()) for gradient in wanted.values()) > 1e-3


def test_the_order_of_groups_changes_no_choice_by_rank(checkpoint: Any) -> None:  # noqa: F811
    made, model = groups(), decoder(checkpoint)
    for which in ("entropy", "kl"):
        chosen = recipe(*SETTINGS[which], *PLAIN)
        found = [decided(chosen, model, MiniBatch([made[g] for g in order]), 0, 60) for order in ([0, 1, 3], [3, 0, 1])]
        for name in ("factors", "penalties"):
            first, second = (getattr(one, name) for one in found)
            assert torch.equal(torch.cat([*first[8:], *first[:8]]), torch.cat(second))


def test_nothing_is_computed_where_nothing_is_chosen(checkpoint: Any) -> None:  # noqa: F811
    whole = MiniBatch(groups())
    assert decided(recipe(), None, whole, 0, 60) is whole  # type: ignore[arg-type]
