"""Numbers from the test suites of other systems (../shared/data/conformance) and a few of our own (tests/data),
computed with our functions.

A vector that the method has no use for is named in `NOT_APPLICABLE` with the reason; any other must have a handler.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from rethink.algorithms import advantages, aggregation, kl, losses, selection
from rethink.algorithms.precision import probability_ratio
from tests.paths import SHARED_DATA, vector_params, vectors

VECTORS = SHARED_DATA / "conformance/grpo_numerics.jsonl"

NOT_APPLICABLE: dict[str, str] = {}

Outputs = dict[str, Tensor]


def tensors(row: dict[str, Any]) -> dict[str, Tensor]:
    return {key: torch.tensor(value, dtype=torch.float64) for key, value in row["inputs"].items()}


def packed(row: dict[str, Any]) -> tuple[dict[str, Tensor], Tensor]:
    """Inputs flattened over completions, and the completions' lengths."""
    inputs = tensors(row)
    shape = inputs["logp"].shape
    count, length = (1, shape[0]) if len(shape) == 1 else (shape[0], shape[1])
    return {key: value.flatten() for key, value in inputs.items()}, torch.full((count,), length)


def token_mean(loss_T: Tensor) -> Tensor:
    weights = aggregation.token_weights(
        torch.tensor([len(loss_T)]), "token", total_completions=1, total_tokens=len(loss_T), dtype=torch.float64
    )
    return (weights * loss_T).sum()


def clips(row: dict[str, Any]) -> tuple[float, float]:
    return row["params"]["eps_low"], row["params"]["eps_high"]


def reinforce(row: dict[str, Any]) -> Outputs:
    x = tensors(row)
    loss = losses.reinforce_loss(x["logp"], x["adv"]).loss_T
    return {"per_token_loss": loss, "loss": token_mean(loss)}


def ppo(row: dict[str, Any]) -> Outputs:
    x = tensors(row)
    terms = losses.clip_ratio(probability_ratio(x["logp"], x["old_logp"]), x["adv"], *clips(row))
    out = {"ratio": terms.ratio_T, "per_token_loss": terms.loss_T, "loss": token_mean(terms.loss_T)}
    if "gen_logp" in x:
        weights, _ = losses.importance_weights(x["old_logp"], x["gen_logp"])
        out |= {"is_weight": weights, "weighted": weights * terms.loss_T, "loss": token_mean(weights * terms.loss_T)}
        out["kl_is_weight"] = losses.importance_weights(x["logp"], x["gen_logp"])[0]
        out["k3"] = kl.kl_k3(x["logp"], x["ref_logp"])
    return out


def gspo(row: dict[str, Any]) -> Outputs:
    x, lengths = packed(row)
    ratio = losses.sequence_ratio(x["logp"], x["old_logp"], lengths)
    terms = losses.clip_ratio(ratio, x["adv"], *clips(row))
    out = {"ratio": ratio, "per_token_loss": terms.loss_T, "loss": token_mean(terms.loss_T)}
    if "gen_logp" in x:
        maximum = row["params"].get("tis_max")
        weights, _ = losses.sequence_importance_weights(x["old_logp"], x["gen_logp"], lengths, maximum)
        out |= {"is_weight": weights[0], "weighted": weights * terms.loss_T, "loss": token_mean(weights * terms.loss_T)}
    shape = tensors(row)["logp"].shape
    return {key: value.reshape(shape) if value.numel() == shape.numel() else value for key, value in out.items()}


def tis(row: dict[str, Any]) -> Outputs:
    raw = tensors(row)["is_weight_raw"]
    weights, cut = losses.importance_weights(raw.log(), torch.zeros_like(raw), row["params"]["tis_max"])
    return {"is_weight": weights, "oob_ratio": cut.double().mean()}


def k2(row: dict[str, Any]) -> Outputs:
    x = tensors(row)
    return {"kl": kl.kl_k2(x["logp"], x["ref_logp"])}


def k3_clamped(row: dict[str, Any]) -> Outputs:
    """Upstream multiplies by exp(logp - sg(logp)) where the input is not clamped: its derivative adds k3 itself."""
    x = tensors(row)
    limit = row["params"]["input_clamp"]
    logp = x["logp"].requires_grad_()
    k3 = kl.kl_k3(logp, x["ref_logp"], max_log_ratio=limit)
    (gradient,) = torch.autograd.grad(k3.sum(), logp)
    inside = x["ref_logp"] - logp.detach() <= limit
    return {"kl": k3.detach(), "dsum_dlogp": gradient + k3.detach() * inside}


def no_tokens(row: dict[str, Any]) -> Outputs:
    """A masked mean over nothing is 0: packed, nothing is a completion without tokens."""
    kept = tensors(row)["values"][tensors(row)["mask"].bool()]
    lengths = torch.tensor([len(kept)])
    weights = aggregation.token_weights(lengths, "token", total_completions=1, total_tokens=0, dtype=torch.float64)
    return {"mean": (weights * kept).sum()}


def group_std(row: dict[str, Any]) -> Outputs:
    return {"adv": advantages.group_advantages(tensors(row)["rewards"][None], "std")[0]}


def high_entropy(row: dict[str, Any]) -> Outputs:
    """Upstream's quantile is the share that is left out; ours the share that is kept, of the tokens there are."""
    x = tensors(row)
    there = x["mask"].bool()
    kept = selection.highest(x["entropies"][there], 1 - row["params"]["threshold_quantile"])
    return {"mask": x["mask"].masked_scatter(there, kept.double())}


def max_rl(row: dict[str, Any]) -> Outputs:
    rewards = tensors(row)["rewards"][None]
    return {"adv": advantages.batch_advantages(advantages.Scored(rewards, rewards >= 0), "max-rl", {})[0]}


def kl_in_reward(row: dict[str, Any]) -> Outputs:
    """Upstream's token rewards: minus beta times k1, and the score at the end. Ours: sums of them from each token."""
    x = tensors(row)
    k1 = kl.kl_k1(x["logp"], x["ref_logp"])
    beta = row["params"]["kl_coeff"]
    from_each = torch.stack([advantages.returns(float(r), beta * row) for r, row in zip(x["scores"], k1, strict=True)])
    after = torch.cat([from_each[:, 1:], torch.zeros_like(from_each[:, :1])], 1)
    return {"kl": k1, "rewards": from_each - after}


def leave_one_out(row: dict[str, Any]) -> Outputs:
    """Baseline = reward - advantage, where the reward is valid. (`std` upstream is that of the others: not ours.)"""
    x = tensors(row)
    valid = x.get("valid", torch.ones_like(x["rewards"])).bool()
    baseline = torch.empty_like(x["rewards"])
    for group in x["groups"].unique():
        member = x["groups"] == group
        rewards, ok = x["rewards"][member], valid[member]
        advantage = advantages.group_advantages(rewards[None], "leave-one-out", ok[None])[0]
        baseline[member] = torch.where(ok, rewards - advantage, torch.nan)
    return {"baseline": baseline}


def dual_clip(row: dict[str, Any]) -> Outputs:
    x = tensors(row)
    return {"per_token_loss": losses.clip_ratio(x["ratio"], x["adv"], *clips(row), row["params"]["clip_c"]).loss_T}


def cispo(row: dict[str, Any]) -> Outputs:
    x = tensors(row)
    logp = x["logp"].requires_grad_()
    loss = losses.cispo_loss(logp, logp.detach() - x["ratio"].log(), x["adv"], *clips(row)).loss_T
    (gradient,) = torch.autograd.grad(loss.sum(), logp)
    return {"clamped": -gradient / x["adv"], "dloss_dlogp": gradient}


HANDLERS: dict[str, Callable[[dict[str, Any]], Outputs]] = {
    "num-001": reinforce,
    "num-002": ppo,
    "num-005": k2,
    "num-008": k3_clamped,
    "num-010": ppo,
    "num-012": gspo,
    "num-014": gspo,
    "num-015": gspo,
    "num-016": gspo,
    "num-017": tis,
    "num-019": no_tokens,
    "num-021": group_std,
    "num-026": leave_one_out,
    "num-027": leave_one_out,
    "num-029": leave_one_out,
    "num-030": max_rl,
    "num-032": dual_clip,
    "num-033": cispo,
    "num-036": kl_in_reward,
    "num-042": high_entropy,
}

EXPECTED_LEFT_OUT = {"num-026": {"std"}, "num-027": {"std"}, "num-029": {"std"}}
"""Expected values that are not ours: the standard deviation of the *other* rewards of a group."""


OWN = (reinforce, ppo, k2, gspo, tis, no_tokens, group_std, leave_one_out, dual_clip, cispo)
"""By the name of a row of ours (tests/data)."""


def handler(row: dict[str, Any]) -> Callable[[dict[str, Any]], Outputs]:
    return HANDLERS[row["id"]] if row["id"] in HANDLERS else {one.__name__: one for one in OWN}[row["name"]]


@pytest.mark.skipif(not VECTORS.exists(), reason=f"no reference data at {VECTORS}")
def test_every_vector_is_handled_or_has_a_reason() -> None:
    upstream = {row["id"] for row in vectors("grpo_numerics") if not row["id"].startswith("own-")}
    assert upstream == HANDLERS.keys() | NOT_APPLICABLE.keys()
    assert not HANDLERS.keys() & NOT_APPLICABLE.keys()


@pytest.mark.parametrize("row", [row for row in vector_params("grpo_numerics") if row.id not in NOT_APPLICABLE])
def test_vector(row: dict[str, Any]) -> None:
    outputs = handler(row)(row)
    wanted = {key: value for key, value in row["expected"].items() if key not in EXPECTED_LEFT_OUT.get(row["id"], ())}
    assert wanted.keys() <= outputs.keys()
    for key, value in wanted.items():
        expected = torch.tensor(value, dtype=torch.float64)
        # A rollout without a reward has no baseline: upstream writes a number there that means nothing.
        counts = ~outputs[key].isnan()
        torch.testing.assert_close(outputs[key][counts], expected[counts], rtol=0, atol=row["tol"])
        assert counts.sum() == (sum(row["inputs"].get("valid", [])) or counts.numel())
