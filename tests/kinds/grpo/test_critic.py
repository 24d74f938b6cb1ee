"""The critic: what it makes of a batch, what it learns, and that its runs are exact."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from rethink.errors import NumericsError, RecipeError, RunFolderError, UsageError
from rethink.kinds.grpo.collect import RolloutBatch
from rethink.kinds.grpo.critic import Critic, accumulate_value_gradients, estimated, judge, values_of
from rethink.kinds.grpo.estimate import estimate
from rethink.kinds.grpo.recipe import CriticSection, Recipe
from rethink.kinds.grpo.update import MiniBatch, accumulate_gradients
from rethink.model.decoder.decoder import Decoder
from rethink.model.decoder.packing import PackedGroup, pack
from rethink.model.heads.value_head import RewardModel
from rethink.model.loading import Checkpoint, load_checkpoint
from rethink.plan.estimate import count_parameters, shape_of
from rethink.recipe.identity import recipe_hash
from rethink.recipe.recipe_files import load_recipe, parse_recipe
from rethink.runs.optimizer import MasterAdamW
from rethink.runs.ranks import FSDP2, Launch, launched_by
from rethink.store.run_folder import RunFolder
from rethink.types import Rollout
from tests.kinds.grpo.test_resume import die, kill_and_resume
from tests.kinds.grpo.test_update import TEXT, close, groups, recipe, with_turns
from tests.runs.compare import timeless

PPO = ("algorithm.type=ppo", "critic={}")
Run = Callable[..., dict[str, Any]]
UPDATES = 25
"""Batches that the toy critic learns from, four updates each."""


@pytest.fixture
def checkpoint(tiny_folder: Callable[..., Path]) -> Checkpoint:
    return load_checkpoint(str(tiny_folder("qwen3")))


def decoder(checkpoint: Checkpoint, dtype: torch.dtype = torch.float64) -> Decoder:
    assert checkpoint.config is not None
    return Decoder(checkpoint.config, checkpoint.tensors, dtype, "cpu")


def critic(checkpoint: Checkpoint, chosen: Recipe, limit: int = 10_000, head: float = 0.1) -> Critic:
    """With a head of random weights around 0."""
    assert chosen.critic is not None
    body = decoder(checkpoint)
    noise = torch.Generator().manual_seed(2)
    weight = head * torch.randn(1, body.config.hidden_size, generator=noise)
    model = RewardModel(body, weight, torch.zeros(1))
    return Critic(chosen, chosen.critic, model, MasterAdamW(model, chosen.optimizer), limit)


def rewarded(made: list[list[Rollout]]) -> list[list[Rollout]]:
    """With a reward of each by its first token."""
    return [[replace(r, reward=float(r.completion.token_ids[0]) / 900) for r in group] for group in made]


def batch_of(made: list[list[Rollout]], index: int = 0) -> RolloutBatch:
    return RolloutBatch(index, tuple(tuple(group) for group in made), (True,) * len(made), tuple(range(len(made))))


# --- what a recipe may say -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["critic={}"], "from the group .*algorithm.advantage=std.*algorithm.type=actor-critic.*algorithm.type=ppo"),
        (["algorithm.type=ppo"], "no section `critic`. Add `critic: {}`"),
        (["algorithm.advantage=gae"], "no section `critic`"),
        (["algorithm.type=ppo", "critic={}", "algorithm.advantage=std"], "`std`, which cannot be set with"),
        ([*PPO, "critic.mini_batches=3"], "`critic.mini_batches` 3 of equal size"),
        ([*PPO, "critic.warmup_steps=10"], "`critic.warmup_steps` 10 is not below `steps` 10.*at most 9"),
        ([*PPO, "critic.adaptive_lambda=0.1", "critic.gae_lambda=0.9"], "takes its place"),
        ([*PPO, "critic.gamma=0"], "above 0"),
        (["algorithm.type=actor-critic", "critic={}", "algorithm.epochs=2"], "one update a rollout batch"),
        (["rollout.group_size=1"], "or a critic"),
        ([*PPO, "rollout={group_size: 1, dynamic_sampling: {}}"], "every completion has a signal"),
    ],
)
def test_what_does_not_go_together_is_refused(overrides: list[str], words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        recipe(*overrides)


def test_defaults_are_those_of_the_objective() -> None:
    ppo, vapo = (recipe(f"algorithm.type={name}", "critic={}").critic for name in ("ppo", "vapo"))
    assert ppo == CriticSection()
    assert vapo is not None
    assert (vapo.adaptive_lambda, vapo.value_lambda) == (0.05, 1.0)
    chosen = recipe("algorithm.type=vapo", "critic={value_lambda: 0.5, adaptive_lambda: null}").critic
    assert chosen is not None
    assert (chosen.adaptive_lambda, chosen.value_lambda) == (None, 0.5)
    assert recipe(*PPO, "rollout.group_size=1").rollout.group_size == 1


def test_a_recipe_without_a_critic_is_the_run_that_it_was() -> None:
    assert recipe_hash(recipe("critic=null")) == recipe_hash(parse_recipe(TEXT, "test"))
    assert recipe_hash(recipe(*PPO)) != recipe_hash(recipe("algorithm.type=ppo", "critic={gamma: 0.9}"))


# --- a batch ---------------------------------------------------------------------------------------------------------


def test_values_are_read_before_each_token(checkpoint: Checkpoint) -> None:
    """One completion at a time, unpacked, from the hidden states by hand; in any packing."""
    chosen, made = recipe(*PPO), groups()
    for limit in (8, 23, 10_000):
        judge_ = critic(checkpoint, chosen, limit)
        found = values_of(judge_, made)
        for rollout, values in zip((r for group in made for r in group), found, strict=True):
            ids = rollout.completion.token_ids.tolist()
            row = pack([PackedGroup([*rollout.prompt.token_ids, *ids], [[0]])])
            with torch.no_grad():
                states = judge_.model.decoder.hidden(row)[len(rollout.prompt.token_ids) - 1 :][: len(ids)]
                expected = states @ judge_.model.weight[0] + judge_.model.bias
            assert (values - expected).abs().max() < 1e-9


def test_advantages_are_of_the_trained_tokens_alone(checkpoint: Checkpoint) -> None:
    """What stands between turns is left out; the last trained token earns the reward; no reward, no advantage."""
    chosen = recipe(*PPO, "critic={whiten: false, gae_lambda: 1, learning_rate: 1.0e-30}")
    made = [[with_turns(r) for r in group] for group in rewarded(groups())]
    made[1][0] = replace(made[1][0], reward=None)
    judge_ = critic(checkpoint, chosen)
    values = values_of(judge_, made)
    batch, row = judge(judge_, batch_of(made))
    assert not any(batch.no_signal)
    masks, errors = [], []
    for rollout, value in zip(batch.rollouts, values, strict=True):
        assert isinstance(rollout.advantage, np.ndarray)
        mask = rollout.trained
        assert (rollout.advantage[~mask] == 0).all()
        if rollout.reward is None:
            assert (rollout.advantage == 0).all()
            continue
        expected = rollout.reward - value.numpy()
        assert rollout.advantage[mask] == pytest.approx(expected[mask], abs=1e-9)
        masks.append(mask)
        errors.append(expected[mask])
    assert sum(len(mask) for mask in masks) > sum(int(mask.sum()) for mask in masks)
    assert row["critic/loss"] == pytest.approx(float(np.mean(np.concatenate(errors) ** 2) / 2), rel=1e-9)
    assert row["critic/grad_norm"] > 0
    assert judge(judge_, batch)[1] == {}  # it learns from a batch once


def test_groups_that_are_not_trained_on_are_not_judged(checkpoint: Checkpoint) -> None:
    made = rewarded(groups())
    found = []
    for batch in (batch_of(made[1:]), replace(batch_of(made), trained=(1, 2, 3))):
        judged, row = judge(critic(checkpoint, recipe(*PPO)), batch)
        found.append(
            (np.concatenate([r.advantage for g in judged.trained_groups for r in g]).tolist(), row["critic/loss"])
        )
    assert found[0] == found[1]
    assert judged.no_signal == (True, False, False, False)


def test_whitening_covers_the_whole_batch(checkpoint: Checkpoint) -> None:
    batch, _ = judge(critic(checkpoint, recipe(*PPO)), batch_of(rewarded(groups())))
    every = np.concatenate([r.advantage for r in batch.rollouts])
    assert every.mean() == pytest.approx(0, abs=1e-12)
    assert every.std() == pytest.approx(1, rel=1e-6)


def test_the_lambdas_of_policy_and_critic_are_apart(checkpoint: Checkpoint) -> None:
    """VAPO's: with lambda 1 the critic learns what was earned, whatever the policy's lambda is."""
    chosen = recipe("algorithm.type=vapo", "critic={whiten: false}")
    made = [r for group in rewarded(groups()) for r in group]
    judge_ = critic(checkpoint, chosen)
    values = values_of(judge_, [[r] for r in made])
    assert chosen.critic is not None
    advantages, targets, _ = estimated(chosen.critic, made, values)
    for rollout, value, advantage, target in zip(made, values, advantages, targets, strict=True):
        assert target.returns.tolist() == pytest.approx([rollout.reward] * len(value), abs=1e-9)
        following = torch.cat(
            [value[1:], torch.tensor([rollout.reward], dtype=torch.float64)]
        )  # lambda 0: 20 tokens and fewer
        assert advantage.tolist() == pytest.approx((following - value).tolist(), abs=1e-9)


def test_a_kl_in_the_reward_is_taken_off_token_by_token(checkpoint: Checkpoint) -> None:
    """With lambda 1 a token's return is the reward less the penalties from it on; untrained tokens have none."""
    chosen = recipe(*PPO, "critic={whiten: false, gae_lambda: 1}")
    made = [with_turns(r) for group in rewarded(groups()) for r in group]
    judge_ = critic(checkpoint, chosen)
    values = values_of(judge_, [[r] for r in made])
    dice = np.random.default_rng(3)
    penalties = [torch.from_numpy(dice.normal(size=len(r.completion.token_ids))) for r in made]
    assert chosen.critic is not None
    _, targets, row = estimated(chosen.critic, made, values, penalties)
    everything = []
    for rollout, target, penalty in zip(made, targets, penalties, strict=True):
        mask = rollout.trained
        expected = rollout.reward - penalty.numpy()[mask][::-1].cumsum()[::-1]
        assert target.returns.numpy()[mask] == pytest.approx(expected, abs=1e-9)
        everything.append(expected)
    assert row["critic/return"] == pytest.approx(np.concatenate(everything).mean())


def test_ppo_without_values_in_one_epoch_is_reinforce(checkpoint: Checkpoint) -> None:
    """A critic of zeros, lambda and gamma 1: every token's advantage is its completion's reward, and the gradient that
    of -reward * log p, by autograd of the formula on all logits."""
    chosen = recipe(*PPO, "critic={whiten: false, gae_lambda: 1}")
    batch, _ = judge(critic(checkpoint, chosen, head=0), batch_of(rewarded(groups())))
    model = decoder(checkpoint)
    optimizer = MasterAdamW(model, chosen.optimizer)
    accumulate_gradients(chosen, model, None, MiniBatch(batch.groups), 0, 40)

    plain = decoder(checkpoint)
    total, tokens = torch.zeros((), dtype=torch.float64), 0
    for rollout in batch.rollouts:
        ids = rollout.completion.token_ids.tolist()
        row = pack([PackedGroup(rollout.prompt.token_ids, [ids])])
        logits = plain.hidden(row)[row.head_rows_C] @ plain.head.t()
        total = total - rollout.reward * logits.log_softmax(-1)[torch.arange(len(ids)), ids].sum()
        tokens += len(ids)
    (total / tokens).backward()
    wanted = {name: p.grad for name, p in plain.named_parameters() if p.grad is not None}
    close(optimizer.gradients(), wanted, 1e-9)
    assert max(float(g.abs().max()) for g in wanted.values()) > 1e-4


# --- what it learns --------------------------------------------------------------------------------------------------


def gradients(checkpoint: Checkpoint, order: list[int], limit: int) -> tuple[float, float, dict[str, Tensor]]:
    """Of an update after one that has moved the values, so that the clip holds some."""
    chosen = recipe(*PPO, "critic.value_clip=0.05")
    made = [[with_turns(r) for r in group] for group in rewarded(groups())]
    judge_ = critic(checkpoint, chosen, limit)
    _, targets, _ = estimated(judge_.section, [r for g in made for r in g], values_of(judge_, made))
    with torch.no_grad():
        judge_.model.bias += 0.04
        judge_.model.weight *= 0.9
    size = len(made[0])
    wanted = [targets[i] for g in order for i in range(g * size, (g + 1) * size)]
    counted = sum(int(target.trained.sum()) for target in targets)
    loss, held = accumulate_value_gradients(judge_, [made[g] for g in order], wanted, counted)
    return loss, held, {name: g.clone() for name, g in judge_.optimizer.gradients().items()}


def test_neither_packing_nor_order_changes_the_critics_update(checkpoint: Checkpoint) -> None:
    loss, held, whole = gradients(checkpoint, [0, 1, 2, 3], 10_000)
    assert loss > 1e-3
    assert 0 < held < 40
    for order, limit in (([0, 1, 2, 3], 8), ([3, 1, 0, 2], 23), ([2, 3, 0, 1], 60)):
        other_loss, other_held, other = gradients(checkpoint, order, limit)
        assert other_loss == pytest.approx(loss, abs=1e-12)
        assert other_held == held
        close(whole, other)


def test_it_learns_the_true_value(checkpoint: Checkpoint) -> None:
    """Half of a prompt's completions earn 1, of another all, of the others none: so are the values of first tokens."""
    true = [0.5, 1.0, 0.0, 0.0]
    chosen = recipe(*PPO, "critic={learning_rate: 3.0e-3, epochs: 2, mini_batches: 2, value_lambda: 1}")
    made = [
        [replace(r, reward=1.0 if i < 4 * share else 0.0) for i, r in enumerate(group)]
        for group, share in zip(groups(), true, strict=True)
    ]
    judge_ = critic(checkpoint, chosen)
    explained = []
    for index in range(UPDATES):
        _, row = judge(judge_, batch_of(made, index))
        explained.append(row["critic/explained_variance"])
    first = [float(v[0]) for v in values_of(judge_, made)][::4]
    assert first == pytest.approx(true, abs=0.06)
    assert explained[0] < 0.2
    assert explained[-1] > 0.8
    assert judge_.section.mini_batches * judge_.section.epochs * UPDATES == int(judge_.optimizer.state()["updates"])


def test_a_critic_that_diverges_stops_the_run(checkpoint: Checkpoint) -> None:
    judge_ = critic(checkpoint, recipe(*PPO), head=1e200)
    with pytest.raises(NumericsError, match=r"critic.learning_rate"):
        judge(judge_, batch_of(rewarded(groups())))


# --- whole runs ------------------------------------------------------------------------------------------------------

RUN = (
    "algorithm.type=ppo",
    "critic={mini_batches: 2, epochs: 2, learning_rate: 1.0e-3, warmup_steps: 2}",
    "optimizer.warmup_steps=1",
    "evaluation={problems: 0}",
)


def ppo_file(recipe_file: Path) -> Path:
    """The recipe of these tests with a critic: everything that carries state, prompts with one completion each."""
    text = recipe_file.read_text().replace("aggregation: token}", "aggregation: token, type: ppo}")
    text = text.replace("group_size: 3", "group_size: 1")
    path = recipe_file.with_name("ppo.yaml")
    path.write_text(text + "critic: {mini_batches: 2, epochs: 2, learning_rate: 1.0e-3, warmup_steps: 2}\n")
    return path


def test_a_run_with_one_completion_a_prompt(run: Run, tmp_path: Path, recipe_file: Path) -> None:
    """The first steps train the critic alone; then the policy learns, several steps from a batch."""
    out = tmp_path / "out"
    run(out, *RUN, "rollout.group_size=1")
    rows = RunFolder.open(out).metrics()
    assert [("critic/loss" in row, "policy/loss" in row) for row in rows[1:]] == [
        (i % 4 == 0, i >= 2) for i in range(8)
    ]
    assert {row["rollout/no_signal"] for row in rows[1:]} == {0.0}
    rates = [row["optimizer/learning_rate"] for row in rows[3:]]
    assert rates[0] == pytest.approx(1e-3)  # its own schedule begins behind the critic's warm-up
    assert all(row["optimizer/grad_norm"] > 0 for row in rows[3:])
    start = load_checkpoint(load_recipe(recipe_file).model.path).tensors
    assert not torch.equal(load_checkpoint(str(out / "model")).tensors["model.norm.weight"], start["model.norm.weight"])
    saved = {path.name for path in (out / "checkpoints" / "step-000006").iterdir()}
    assert {"critic.safetensors", "critic_advantages.safetensors"} <= saved
    assert "critic_advantages.safetensors" not in {p.name for p in (out / "checkpoints" / "step-000008").iterdir()}


def test_the_policy_stays_as_it_is_while_the_critic_warms_up(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(out, *RUN, "critic.warmup_steps=4", "steps=5", "checkpoint.every=1", "checkpoint.keep=9")
    saved = {step: load_file(path / "optimizer.safetensors") for step, path in RunFolder.open(out).checkpoints()}
    critics = {step: load_file(path / "critic.safetensors") for step, path in RunFolder.open(out).checkpoints()}
    for step in (2, 3, 4):
        assert all(torch.equal(saved[1][name], saved[step][name]) for name in saved[1])
    assert int(saved[4]["updates"]) == 0
    assert int(saved[5]["updates"]) == 1
    assert [int(critics[step]["updates"]) for step in (1, 4, 5)] == [4, 4, 8]


@pytest.mark.slow
@pytest.mark.once
@pytest.mark.timeout(600)
def test_a_killed_run_with_a_critic_ends_like_the_whole_one(recipe_file: Path, tmp_path: Path) -> None:
    path, whole = ppo_file(recipe_file), tmp_path / "whole"
    done = die(path, whole, 0, "")
    assert done.returncode == 0, done.stderr
    calls = int(done.stdout)
    kill_and_resume(path, whole, [calls // 2, calls * 4 // 5], tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_killed_at_many_points(recipe_file: Path, tmp_path: Path) -> None:
    path, whole = ppo_file(recipe_file), tmp_path / "whole"
    calls = int(die(path, whole, 0, "").stdout)
    kill_and_resume(path, whole, [calls * part // 11 for part in range(1, 11)], tmp_path)


def test_a_damaged_critic_costs_the_checkpoint(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(out, *RUN, "steps=7", "optimizer.schedule=constant")
    whole = timeless(RunFolder.open(out))
    file = out / "checkpoints" / "step-000007" / "critic.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    run(out, *RUN, "steps=7", "optimizer.schedule=constant", resume=True)
    assert timeless(RunFolder.open(out)) == whole
    for path in (out / "checkpoints").glob("*/critic.safetensors"):
        path.write_bytes(b"")
    with pytest.raises(RunFolderError, match=r"critic\.safetensors"):
        run(out, *RUN, "steps=8", "optimizer.schedule=constant", resume=True)


def test_a_kl_in_the_reward_reaches_the_critic_and_resumes(run: Run, tmp_path: Path) -> None:
    """Stopped in the midst of a batch; the second batch is of a policy that has left its reference."""
    wanted = (
        *RUN,
        "algorithm.kl_in=reward",
        "algorithm.beta=5",
        "algorithm.reference_every=null",
        "critic.warmup_steps=0",
    )
    constant = (*wanted, "optimizer.schedule=constant")
    out, whole = tmp_path / "out", tmp_path / "whole"
    run(whole, *constant, "steps=7")
    rows = RunFolder.open(whole).metrics()
    assert rows[1]["critic/return"] == pytest.approx(rows[1]["reward/mean"], abs=0.2)  # the KL is 0 as it begins
    plain = tmp_path / "plain"
    run(plain, *constant, "steps=5", "algorithm.beta=1.0e-9")
    assert rows[5]["critic/return"] != RunFolder.open(plain).metrics()[5]["critic/return"]
    run(out, *constant, "steps=6")
    run(out, *constant, "steps=7", resume=True)
    assert timeless(RunFolder.open(out)) == timeless(RunFolder.open(whole))


@pytest.mark.parametrize("name", ["actor-critic", "vapo"])
def test_the_other_objectives_train(run: Run, tmp_path: Path, name: str) -> None:
    run(tmp_path / "out", f"algorithm={{type: {name}}}", "critic={}", "steps=2", "optimizer.warmup_steps=0",
        "evaluation={problems: 0}")  # fmt: skip
    rows = RunFolder.open(tmp_path / "out").metrics()
    assert rows[-1]["optimizer/grad_norm"] > 0
    assert rows[-1]["critic/grad_norm"] > 0


# --- before anything slow --------------------------------------------------------------------------------------------


def test_a_critic_of_another_tokenizer_is_refused(run: Run, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"tokenizer differs.*have the same id.*the same tokenizer"):
        run(tmp_path / "out", *RUN, "critic.model=tiny-random")
    assert not (tmp_path / "out").exists()


def test_a_critic_begins_as_a_reward_model(run: Run, tmp_path: Path, tiny_folder: Callable[..., Path]) -> None:
    """Its head is read, and its hash is part of the run."""
    from rethink.model.heads.value_head import RewardModelInfo, save_reward_model

    start = load_checkpoint(str(tiny_folder("llama")))
    folder = tmp_path / "rm"
    folder.mkdir()
    size = decoder(start).config.hidden_size
    model = RewardModel(decoder(start, torch.float32), torch.full((1, size), 0.01), torch.tensor([0.7]))
    save_reward_model(folder, model, start, RewardModelInfo())
    out = tmp_path / "out"
    run(out, *RUN, f"critic.model={folder}", "steps=4")
    assert RunFolder.open(out).metrics()[1]["critic/value"] == pytest.approx(0.7, abs=0.3)
    assert "critic.model" in RunFolder.open(out).inputs
    (folder / "value_head.safetensors").write_bytes((folder / "value_head.safetensors").read_bytes()[:-1] + b"\1")
    with pytest.raises(RunFolderError, match="changed since the run"):
        run(out, *RUN, f"critic.model={folder}", "steps=4", resume=True)


def test_ranks_that_shard_weights_refuse_a_critic(run: Run, tmp_path: Path) -> None:
    def start(shared: object) -> Any:
        raise AssertionError

    with (
        launched_by(Launch(2, 1, start, strategy=FSDP2)),
        pytest.raises(UsageError, match=r"critic's cannot be sharded"),
    ):
        run(tmp_path / "out", *RUN)


def test_the_plan_counts_the_critic(checkpoint: Checkpoint) -> None:
    assert checkpoint.config is not None
    shape = shape_of(checkpoint.config)
    plain, with_critic = (estimate(recipe(*o), shape) for o in (["algorithm.aggregation=token"], PPO))
    assert with_critic.memory.critic == 16 * count_parameters(shape).total
    assert with_critic.memory.least == plain.memory.least + with_critic.memory.critic
    phase, before = with_critic.phases[0], plain.phases[0]
    tokens = phase.prompt_tokens_batch + phase.completion_tokens_batch
    assert phase.training_flops - before.training_flops == 4 * 2 * count_parameters(shape).block * tokens
    twice = estimate(recipe("algorithm.type=ppo", "critic={epochs: 3}"), shape).phases[0]
    assert twice.training_flops - before.training_flops == 10 * 2 * count_parameters(shape).block * tokens
