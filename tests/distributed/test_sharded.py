"""Sharded weights (FSDP2 over gloo): the steps of one process within rounding, on any number of ranks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from rethink.distributed.sharded_checkpoint import read_shards
from tests.distributed.sharded_ranks import Scenario, alone, together

FP32 = 2e-5
"""Largest difference to one process after two steps, relative to the largest entry of a weight: rounding of sums."""
BF16 = 2e-2
"""The same where layers compute in bf16, whose weights have 8 bits."""
TIED = Scenario("tied")
UNTIED = Scenario("untied", tied=False)
UNEQUAL = Scenario("unequal", lanes=(1, 3, 0, 2))
"""Fewer lanes than ranks, and lanes of one to three micro-batches."""
LINEAR = Scenario("transformers", engine="transformers", lanes=(2, 3))


def close(one: dict[str, Tensor], two: dict[str, Tensor], bound: float) -> None:
    assert one.keys() == two.keys()
    for name, right in one.items():
        gap = (two[name].double() - right.double()).abs().max() / right.double().abs().max()
        assert gap < bound, (name, float(gap))


def same(one: dict[str, Tensor], two: dict[str, Tensor]) -> None:
    assert one.keys() == two.keys()
    assert not [name for name, right in one.items() if not torch.equal(right, two[name])]


def test_two_ranks_take_the_steps_of_one_process(tmp_path: Path) -> None:
    written = Scenario("written", write="saved")
    again = Scenario("again", lanes=(3,), read="saved", first=2)
    found = together(2, [TIED, UNEQUAL, LINEAR, written, again], tmp_path)
    for scenario in (TIED, UNEQUAL, LINEAR):
        close(alone(scenario, tmp_path), found[scenario.name], FP32)
    same(found["tied"], found["written"])  # twice the same, to the bit
    whole = alone(Scenario("whole", lanes=(3, 3, 3)), tmp_path)
    close(whole | {"said": whole["said"][-2:]}, found["again"], FP32)


def test_files_hold_parts_that_add_up_and_no_pickle(tmp_path: Path) -> None:
    together(2, [Scenario("written", lanes=(2,), write="saved")], tmp_path)
    paths = sorted((tmp_path / "saved").iterdir())
    assert [path.name for path in paths] == [f"sharded-0000{n}-of-00002.safetensors" for n in (1, 2)]
    with safe_open(paths[1], framework="pt") as file:
        offsets = json.loads(file.metadata()["DCP_SHARDING_INFO"])["weight.embedding"]["saved_offsets"]
        assert offsets == [22, 0]
        assert list(file.get_slice("weight.embedding").get_shape()) == [21, 32]
    shapes = {"weight.embedding": (43, 32), "exp_avg.layers.1.qkv_bias": (64,), "updates": (1,)}
    state = {name: torch.zeros(shape) for name, shape in shapes.items()}
    state["updates"] = state["updates"].long()
    read_shards(tmp_path / "saved", state)
    parts = [load_file(path) for path in paths]
    assert torch.equal(state["weight.embedding"], torch.cat([part["weight.embedding"] for part in parts]))
    assert int(state["updates"]) == 1
    with pytest.raises(ValueError, match=r"no weight.embedding of the shape \[43, 31\]"):
        read_shards(tmp_path / "saved", {"weight.embedding": torch.zeros(43, 31)})
    paths[0].unlink()
    with pytest.raises(ValueError, match="1 of 2 files"):
        read_shards(tmp_path / "saved", state)
    paths[1].rename(paths[1].with_name("sharded-00001-of-00001.safetensors"))
    with pytest.raises(ValueError, match=r"has 672 of 1376 values"):
        read_shards(tmp_path / "saved", state)


@pytest.mark.slow
@pytest.mark.parametrize("size", [1, 3])
def test_other_numbers_of_ranks_do_too_and_read_what_two_wrote(size: int, tmp_path: Path) -> None:
    together(2, [Scenario("before", write="saved")], tmp_path)
    again = Scenario("again", lanes=(3,), read="saved", first=2)
    found = together(size, [TIED, UNTIED, UNEQUAL, LINEAR, again], tmp_path)
    for scenario in (TIED, UNTIED, UNEQUAL, LINEAR):
        close(alone(scenario, tmp_path), found[scenario.name], FP32)
    whole = alone(Scenario("whole", lanes=(3, 3, 3)), tmp_path)
    close(whole | {"said": whole["said"][-2:]}, found["again"], FP32)


@pytest.mark.slow
def test_layers_are_computed_in_bf16_and_again_where_asked(tmp_path: Path) -> None:
    half = Scenario("half", dtype="bfloat16", lanes=(3, 2))
    again = Scenario("recomputed", dtype="bfloat16", lanes=(3, 2), recompute=True)
    through = Scenario("through", engine="transformers", recompute=True)
    found = together(2, [half, again, through], tmp_path)
    close(alone(half, tmp_path), found["half"], BF16)
    same(found["half"], found["recomputed"])
    close(alone(through, tmp_path), found["through"], FP32)
