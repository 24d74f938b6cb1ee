"""How trainer ranks share the steps of a reward model: a lane of examples as arrays, and what is computed of it."""

from __future__ import annotations

from itertools import islice

import numpy as np

from rethink.kinds.reward_model.examples import Example
from rethink.kinds.reward_model.recipe import RewardModelRecipe
from rethink.kinds.reward_model.update import Lane, StepStats, accumulate_gradients
from rethink.machine.placement import Placement
from rethink.model.decoder.packing import PackedGroup
from rethink.model.heads.value_head import RewardModel, build_reward_model
from rethink.model.loading import Checkpoint
from rethink.runs.lanes import Arrays, Lanes, ragged, rows_of
from rethink.tasks.preferences import Preference


def build(recipe: RewardModelRecipe, checkpoint: Checkpoint, placement: Placement) -> RewardModel:
    """What is trained."""
    return build_reward_model(checkpoint, placement.dtype, placement.device, recipe.seed)


def pack(lane: Lane) -> Arrays:
    """Only what training needs: ids, and labels; -1 stands for none."""
    groups = [example.group for example in lane.examples]
    labels = [example.preference.label for example in lane.examples]
    return {
        "counted": np.array([lane.counted], np.int64),
        "labels": np.array([-1 if label is None else label for label in labels], np.int64),
        **ragged("prompts", [group.prompt_ids for group in groups], np.int32),
        **ragged("responses", [response for group in groups for response in group.completions], np.int32),
    }


def unpack(arrays: Arrays) -> Lane:
    """Inverse of `pack`."""
    prompts, responses = ([row.tolist() for row in rows_of(arrays, name)] for name in ("prompts", "responses"))
    each, examples = iter(responses), []
    for prompt, label in zip(prompts, arrays["labels"].tolist(), strict=True):
        group = PackedGroup(prompt, list(islice(each, len(responses) // len(prompts))))
        examples.append(Example(Preference((), (), None if label < 0 else label), group, key=0))
    return Lane(examples, int(arrays["counted"][0]))


LANES = Lanes(build, accumulate_gradients, pack, unpack, StepStats)
