"""Truncated completions that a recipe masks are not in the loss, nor in any denominator of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from rethink.kinds.grpo.collect import RolloutBatch
from rethink.kinds.grpo.loop import mini_batch
from rethink.kinds.grpo.recipe import Recipe
from rethink.kinds.grpo.update import MiniBatch, accumulate_gradients
from rethink.model.decoder.decoder import Decoder
from rethink.model.loading import load_checkpoint
from rethink.recipe.recipe_files import load_recipe
from rethink.runs.optimizer import MasterAdamW
from rethink.types import Rollout
from tests.kinds.grpo.test_update import groups, recipe
from tests.paths import ROOT

MASK = "algorithm.mask_truncated=true"
CUT = {(0, 1), (0, 3), (1, 0), (3, 0), (3, 1), (3, 2), (3, 3)}
"""(group, completion) of the truncated ones: the last group has no other."""


def batch() -> RolloutBatch:
    made = [
        [
            replace(
                rollout, completion=replace(rollout.completion, finish_reason="length" if (g, i) in CUT else "stop")
            )
            for i, rollout in enumerate(group)
        ]
        for g, group in enumerate(groups())
    ]
    return RolloutBatch(0, tuple(map(tuple, made)), (False, False, True, False), (0, 1, 2, 3))


def chosen(made: Recipe, old: list[Tensor] | None = None, position: int = 0) -> MiniBatch:
    run = SimpleNamespace(recipe=made, old_logprobs=old)
    return mini_batch(run, batch(), position)  # type: ignore[arg-type]


def kept() -> list[Rollout]:
    return [r for g, group in enumerate(batch().groups) for i, r in enumerate(group) if (g, i) not in CUT]


@pytest.mark.parametrize("aggregation", ["token", "sequence", "fixed"])
@pytest.mark.parametrize("lanes", [1, 2])
def test_the_loss_is_that_of_the_other_completions(
    tiny_folder: Callable[..., Path], aggregation: str, lanes: int
) -> None:
    """At a ratio of 1 the loss of a token is -A."""
    checkpoint = load_checkpoint(str(tiny_folder("qwen3")))
    assert checkpoint.config is not None
    made = recipe(MASK, f"algorithm.aggregation={aggregation}")
    model = Decoder(checkpoint.config, checkpoint.tensors, torch.float64, "cpu")
    MasterAdamW(model, made.optimizer)
    parts = chosen(made).lanes(lanes)
    loss = sum(accumulate_gradients(made, model, None, part, 0, 30).loss for part in parts)
    sizes = [len(r.completion.token_ids) for r in kept()]
    summed = -sum(float(r.advantage) * size for r, size in zip(kept(), sizes, strict=True))
    expected = {
        "token": summed / sum(sizes),
        "fixed": summed / (12 * len(sizes)),
        "sequence": -sum(float(r.advantage) for r in kept()) / len(sizes),
    }
    assert loss == pytest.approx(expected[aggregation], abs=1e-12)
    assert abs(loss) > 1e-3


def test_what_is_left_keeps_its_old_logprobs_and_its_group() -> None:
    old = [torch.full((1,), float(i)) for i in range(16)]
    found = chosen(recipe(MASK), old)
    assert [[float(v) for v in found.old_logprobs or ()]] == [[0, 2, 5, 6, 7, 8, 9, 10, 11]]
    assert [len(group) for group in found.groups] == [2, 3, 4]
    assert list(found.skip) == [False, False, True]
    assert [len(group) for group in chosen(recipe(), old).groups] == [4, 4, 4, 4]


def test_a_mini_batch_of_truncated_completions_has_no_gradient(tiny_folder: Callable[..., Path]) -> None:
    checkpoint = load_checkpoint(str(tiny_folder("qwen3")))
    assert checkpoint.config is not None
    made = recipe(MASK, "algorithm.mini_batches=4", "algorithm.aggregation=token")
    model = Decoder(checkpoint.config, checkpoint.tensors, torch.float64, "cpu")
    optimizer = MasterAdamW(model, made.optimizer)
    empty = [found for position in range(4) if not (found := chosen(made, position=position)).groups]
    assert len(empty) == 1
    for lane in empty[0].lanes(2):
        assert accumulate_gradients(made, model, None, lane, 0, 30).loss == 0
    assert all(not gradient.any() for gradient in optimizer.gradients().values())


def test_the_page_shows_a_recipe_of_all_of_dapo(tmp_path: Path) -> None:
    page = (ROOT / "docs/sampling.md").read_text()
    (tmp_path / "dapo.yaml").write_text("name: dapo" + page.partition("```yaml\nname: dapo")[2].partition("```")[0])
    found = load_recipe(tmp_path / "dapo.yaml")
    assert found.algorithm.clip_high == 0.28
    assert found.steps_per_batch == 16
    assert found.rollout.dynamic_sampling is not None
