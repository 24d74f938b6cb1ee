"""The gradients of a step are autograd's of the formula on full logits; cuts, lanes and packing change nothing."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from rethink.errors import NumericsError
from rethink.kinds.preference.data import kl_groups
from rethink.kinds.preference.recipe import PreferenceRecipe
from rethink.kinds.preference.update import Lane, StepStats, accumulate_gradients, answer_logprobs, estimate_kl
from rethink.kinds.preference.wire import pack, unpack
from rethink.kinds.reward_model.examples import Example
from rethink.model.decoder.decoder import Decoder
from rethink.model.decoder.packing import PackedGroup
from rethink.model.decoder.packing import pack as pack_groups
from rethink.model.transformers_model import TransformersModel
from rethink.recipe.preference import preference_objectives
from rethink.runs.optimizer import MasterAdamW
from rethink.tasks.preferences import Preference
from tests.models import SHAPE, decoder_of, tiny_model

VOCABULARY = 300
WHOLE = 10_000


def recipe(name: str) -> PreferenceRecipe:
    return PreferenceRecipe.model_validate(
        {"name": "t", "steps": 9, "data": [{"path": "rows.jsonl"}], "algorithm": {"type": name}}
    )


@functools.cache
def module_of() -> Any:
    return tiny_model("Llama", seed=3, vocab_size=VOCABULARY, max_position_embeddings=128, **SHAPE).double()


def groups(answers: int, number: int = 5) -> list[PackedGroup]:
    """Prompts and answers of several lengths; answers of a pair begin alike, and two prompts do."""
    dice = random.Random(answers)

    def ids(size: int) -> list[int]:
        return [dice.randrange(VOCABULARY) for _ in range(size)]

    shared, made = ids(6), []
    for i in range(number):
        begun = ids(2)
        made.append(PackedGroup(shared + ids(i + 1), [begun + ids(3 + 2 * i + 4 * j) for j in range(answers)]))
    return made


def lane_of(name: str) -> Lane:
    objective = preference_objectives()[name]
    made = groups(2 if objective.paired else 1)
    dice = np.random.default_rng(0)
    reference = [-6 * dice.random(len(group.completions)) * 5 - 20 for group in made]
    labels = None if objective.paired else [i % 2 == 0 for i in range(len(made))]
    needed = "reference" in objective.needs
    return Lane(made, len(made), reference if needed else None, labels, 0.4 if "kl" in objective.needs else 0.0)


def ours(name: str, lane: Lane, limit: int = WHOLE, model: Any = None) -> tuple[StepStats, dict[str, Tensor]]:
    model = model or decoder_of(module_of(), torch.float64)
    optimizer = MasterAdamW(model, recipe(name).optimizer)
    stats = accumulate_gradients(recipe(name), model, None, lane, 0, limit)
    return stats, {key: g.clone() for key, g in model.hf_tensors(optimizer.gradients()).items()}


def close(one: dict[str, Tensor], two: dict[str, Tensor], tolerance: float) -> None:
    for name, gradient in two.items():
        scale = gradient.abs().max().clamp_min(1e-30)
        assert (gradient - one[name]).abs().max() <= tolerance * scale, name


Logits = Callable[[list[int]], Tensor]


def by_transformers(module: Any) -> Logits:
    return lambda ids: module(input_ids=torch.tensor([ids])).logits[0]


def by_decoder(model: Decoder) -> Logits:
    """All logits of one sequence, with a graph: nothing is packed, and nothing of the head is chunked."""
    return lambda ids: model.hidden(pack_groups([PackedGroup(ids, [[]])])) @ model.head.t()


def full_logits(logits_of: Logits, group: PackedGroup) -> Tensor:
    """[answers] log-probabilities, one sequence each, by the softmax over all logits."""
    sums = []
    for answer in group.completions:
        logits = logits_of([*group.prompt_ids, *answer])[len(group.prompt_ids) - 1 : -1]
        sums.append(logits.log_softmax(-1).gather(1, torch.tensor(answer)[:, None]).sum())
    return torch.stack(sums)


def formula(name: str, lane: Lane, logits_of: Logits) -> Tensor:
    """The loss of a step as the paper has it, written out on full logits."""
    total, log_sigmoid = torch.zeros((), dtype=torch.float64), torch.nn.functional.logsigmoid
    for number, group in enumerate(lane.groups):
        logprobs, lengths = full_logits(logits_of, group), [len(answer) for answer in group.completions]
        if name == "dpo":
            assert lane.reference is not None
            ratio = logprobs - torch.from_numpy(lane.reference[number])
            total = total - log_sigmoid(0.1 * (ratio[0] - ratio[1]))
        elif name == "orpo":
            means = logprobs / torch.tensor(lengths)
            odds = means.exp() / (1 - means.exp())
            total = total - means[0] - 0.1 * log_sigmoid((odds[0] / odds[1]).log())
        else:
            assert name == "kto"
            assert lane.labels is not None
            assert lane.reference is not None
            sign = 1 if lane.labels[number] else -1
            reward = 0.1 * (logprobs[0] - float(lane.reference[number][0]))
            total = total + 1 - torch.sigmoid(sign * (reward - 0.1 * lane.kl))
    return total / len(lane.groups)


@pytest.mark.parametrize("name", ["dpo", "orpo", "kto"])
def test_the_gradient_is_autograds_of_the_formula_on_full_logits(name: str) -> None:
    lane, plain = lane_of(name), decoder_of(module_of(), torch.float64)
    loss = formula(name, lane, by_decoder(plain))
    weights = dict(plain.named_parameters())
    made = dict(zip(weights, torch.autograd.grad(loss, list(weights.values())), strict=True))
    stats, gradients = ours(name, lane)
    assert stats.sums["loss"] / stats.sums["examples"] == pytest.approx(float(loss.detach()), rel=1e-12)
    close(gradients, plain.hf_tensors(made), 1e-10)


def test_models_of_transformers_see_one_sequence_at_a_time_and_learn_the_same() -> None:
    """To the rounding of transformers, which computes some parts in fp32."""
    lane, module = lane_of("dpo"), module_of()
    loss = formula("dpo", lane, by_transformers(module))
    expected = torch.autograd.grad(loss, list(module.parameters()))
    stats, gradients = ours("dpo", lane, model=TransformersModel(module, torch.float64, "cpu"))
    assert stats.sums["loss"] / stats.sums["examples"] == pytest.approx(float(loss.detach()), rel=1e-6)
    close(gradients, dict(zip(dict(module.named_parameters()), expected, strict=True)), 1e-5)


QUICK = ("dpo", "orpo", "kto")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow) for name in preference_objectives()]
)
def test_micro_batches_and_lanes_change_nothing(name: str) -> None:
    """By more than 1e-9 in fp64, of loss, metrics and gradients; lanes travel as other ranks get them."""
    lane = lane_of(name)
    whole, gradients = ours(name, lane)
    stats, other = ours(name, lane, 1)
    assert stats.metrics() == pytest.approx(whole.metrics(), rel=1e-9)
    close(other, gradients, 1e-9)
    model = decoder_of(module_of(), torch.float64)
    optimizer = MasterAdamW(model, recipe(name).optimizer)
    parts = [accumulate_gradients(recipe(name), model, None, unpack(pack(part)), 0, 60) for part in lane.lanes(2)]
    assert len(parts) == 2
    assert StepStats.merged(parts).metrics() == pytest.approx(whole.metrics(), rel=1e-9)
    close(model.hf_tensors(optimizer.gradients()), gradients, 1e-9)


def test_a_reference_in_memory_is_the_stored_one() -> None:
    model = decoder_of(module_of(), torch.float64)
    lane = Lane(groups(2), 5)
    stored = Lane(lane.groups, 5, answer_logprobs(model, lane.groups, 50))
    found = []
    for given, reference in ((stored, None), (lane, model.clone())):
        stats = accumulate_gradients(recipe("dpo"), model, reference, given, 0, WHOLE)
        found.append({name: v for name, v in stats.metrics().items() if name != "preference/accuracy"})  # all are tied
    assert found[0] == pytest.approx(found[1], rel=1e-9, abs=1e-12)
    assert found[0]["preference/loss"] == pytest.approx(np.log(2))


def test_log_probabilities_are_those_of_the_plain_model() -> None:
    module = module_of()
    for limit in (1, WHOLE):
        for group, values in zip(groups(2), answer_logprobs(decoder_of(module), groups(2), limit), strict=True):
            assert values.tolist() == pytest.approx(full_logits(by_transformers(module), group).tolist(), rel=1e-6)


def test_a_loss_that_is_not_finite_stops_the_run() -> None:
    lane = lane_of("dpo")
    broken = Lane(lane.groups, lane.counted, [np.array([np.nan, 0.0])] * 5)
    with pytest.raises(NumericsError, match="the loss of step 1 is nan"):
        ours("dpo", broken)


# --- KTO's KL ---------------------------------------------------------------------------------------------------------


def examples(keys: list[int]) -> list[Example]:
    preference = Preference(({"role": "user", "content": "q"},), ("a",), 1)
    return [Example(preference, PackedGroup([1, 2], [[10 + i] * 5]), key) for i, key in enumerate(keys)]


@pytest.mark.parametrize("keys", [[1, 2, 3, 4, 5, 6], [1, 1, 1, 2, 2, 1, 3], [7, 7, 7, 7, 8]])
def test_each_prompt_has_an_answer_to_another_one(keys: list[int]) -> None:
    given = examples(keys)
    made, cut = kl_groups(given, 0, 100)
    assert (cut, len(made)) == (0, len(given))
    for example, group in zip(given, made, strict=True):
        assert group.prompt_ids == example.group.prompt_ids
        (owner,) = (other for other in given if other.group.completions == group.completions)
        assert owner.key != example.key
    if len(set(keys)) == len(keys):  # a round: each answer stands for one prompt
        assert len({tuple(group.completions[0]) for group in made}) == len(keys)
    assert kl_groups(given, 0, 100) == (made, 0)
    assert kl_groups(given, 1, 100)[0] != made
    short, cut = kl_groups(given, 0, 4)
    assert cut == len(given)
    assert {len(group.completions[0]) for group in short} == {2}


def test_one_prompt_has_no_other() -> None:
    assert kl_groups(examples([4, 4, 4]), 0, 100) == ([], 0)
    assert kl_groups([], 0, 100) == ([], 0)


def test_the_kl_is_a_mean_that_is_never_negative() -> None:
    mine, theirs = [np.array([-3.0]), np.array([-4.0])], [np.array([-5.0]), np.array([-4.5])]
    assert estimate_kl(mine, theirs) == 1.25
    assert estimate_kl(theirs, mine) == 0.0
    assert estimate_kl([], []) == 0.0
