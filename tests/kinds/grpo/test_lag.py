"""A fixed lag between sampling and training: which policy samples which batch, on workers, after a kill, and what the
objective makes of it. The runs have two updates a batch, so versions are 0, 2, 4, …"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from rethink.distributed.protocol import Task
from rethink.errors import EngineFailure, RecipeError
from rethink.kinds.grpo.collect import RolloutBatch
from rethink.kinds.grpo.lag import batches_due, policies_needed, sampled_by
from rethink.kinds.grpo.loop import old_logprobs, old_source
from rethink.kinds.grpo.update import MiniBatch, accumulate_gradients
from rethink.model.decoder.decoder import Decoder
from rethink.model.loading import load_checkpoint
from rethink.runs.optimizer import MasterAdamW
from rethink.store.completeness import lost_parts
from rethink.store.run_folder import RunFolder
from tests.distributed.local_ranks import local_ranks
from tests.distributed.local_workers import local_workers
from tests.kinds.grpo.test_objectives import clipped, logprobs_with_graph
from tests.kinds.grpo.test_resume import die, kill_and_resume
from tests.kinds.grpo.test_update import groups, recipe
from tests.runs.compare import same_run

Run = Callable[..., dict[str, Any]]
LAGGING = (
    "rollout.lag=1",
    "algorithm={mini_batches: 2, aggregation: token}",
    "optimizer={learning_rate: 1.0e-3}",
    "checkpoint={every: 2, keep: 9}",
    "evaluation={problems: 2, every: 7}",
    "model.dtype=bfloat16",
)


@pytest.fixture
def recipe_file(recipe_file: Path, tiny_folder: Callable[..., Path]) -> Path:
    """On a model that native kernels compute where there are any: completions do not depend on what else is drawn."""
    exact = tiny_folder("llama", "exact", head_dim=64, hidden_size=64)
    recipe_file.write_text(recipe_file.read_text().replace(str(exact.parent / "llama"), str(exact)))
    return recipe_file


class Crash(Exception):
    """The run ends here."""


def versions(out: Path) -> list[set[int | None]]:
    folder = RunFolder.open(out)
    return [{r.completion.version for r in folder.read_rollouts(batch) or ()} for batch in folder.batches()]


def weights(out: Path) -> bytes:
    return (out / "model" / "model.safetensors").read_bytes()


def steps(out: Path) -> list[int]:
    return [row["step"] for row in RunFolder.open(out).metrics()]


@pytest.fixture(scope="module")
def _made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("lag") / "whole"


@pytest.fixture
def whole(run: Run, _made: Path) -> Path:
    """The run of `LAGGING` in one process that nothing disturbs."""
    if not _made.exists():
        run(_made, *LAGGING)
    return _made


@pytest.fixture(autouse=True)
def _no_thread_stays() -> Iterator[None]:
    yield
    assert not [t.name for t in threading.enumerate() if t.name in ("rollouts", "rollout pool")]


@pytest.fixture
def crash_at(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """`crash_at(step)`: the run ends just after the checkpoint of that step; 0: never."""
    save, at = RunFolder.save_checkpoint, [0]

    def saved(folder: RunFolder, step: int, *args: Any, **options: Any) -> Path:
        path = save(folder, step, *args, **options)
        if step == at[0]:
            raise Crash
        return path

    monkeypatch.setattr(RunFolder, "save_checkpoint", saved)
    return lambda step: at.__setitem__(0, step)


def test_the_rule() -> None:
    assert [sampled_by(batch, 2) for batch in range(6)] == [0, 0, 0, 1, 2, 3]
    assert [sampled_by(batch, 0) for batch in range(3)] == [0, 1, 2]
    assert list(batches_due(3, 2)) == [3, 4, 5]
    assert policies_needed(3, 2, {3}) == {2, 3}
    for lag in range(4):  # each batch is due as soon as its policy is there, and not before
        for batch in range(6):
            assert batch in batches_due(sampled_by(batch, lag), lag)
            assert not sampled_by(batch, lag) or batch not in batches_due(sampled_by(batch, lag) - 1, lag)


def test_each_batch_is_sampled_by_the_policy_that_the_lag_says(run: Run, whole: Path, tmp_path: Path) -> None:
    run(tmp_path / "two", *LAGGING)
    run(tmp_path / "on-policy", *LAGGING, "rollout.lag=0")
    assert versions(whole) == [{0}, {0}, {2}, {4}]
    assert versions(tmp_path / "on-policy") == [{0}, {2}, {4}, {6}]
    same_run(whole, tmp_path / "two")
    assert weights(whole) != weights(tmp_path / "on-policy")
    rows = RunFolder.open(whole).metrics()[1:]
    assert [row["policy/lag"] for row in rows] == [0, 0, 1, 1, 1, 1, 1, 1]
    # The ratio is taken to the policy that sampled: at the first update of batch 0 it is 1, up to rounding.
    assert rows[0]["policy/ratio_max"] < 1.1 < rows[2]["policy/ratio_max"]


@pytest.mark.slow
def test_a_finished_run_is_extended(run: Run, whole: Path, tmp_path: Path) -> None:
    """Its last checkpoint holds the version that samples the next batch but one."""
    run(tmp_path / "out", *LAGGING, "steps=4")
    last = RunFolder.open(tmp_path / "out").latest_checkpoint()
    assert last is not None
    assert sorted(path.name for path in last[1].glob("weights-*")) == ["weights-000002.safetensors"]
    run(tmp_path / "out", *LAGGING, "steps=8", resume=True)
    assert weights(tmp_path / "out") == weights(whole)


def test_workers_sample_ahead_and_give_the_bits_of_one_process(run: Run, whole: Path, tmp_path: Path) -> None:
    with local_workers():
        run(tmp_path / "spread", *LAGGING)
    assert weights(whole) == weights(tmp_path / "spread")
    assert versions(tmp_path / "spread") == [{0}, {0}, {2}, {4}]
    alone, spread = (RunFolder.open(out).read_samples("step-000007") for out in (whole, tmp_path / "spread"))
    assert alone == spread


def test_ranks_share_the_steps_of_a_run_that_lags(run: Run, tmp_path: Path) -> None:
    two = (*LAGGING, "optimizer.lanes=2")
    run(tmp_path / "alone", *two)
    with local_ranks(2):
        run(tmp_path / "ranks", *two)
    with local_ranks(3), local_workers():
        run(tmp_path / "spread", *two)
    for name in ("ranks", "spread"):
        assert weights(tmp_path / "alone") == weights(tmp_path / name)
        assert versions(tmp_path / name) == [{0}, {0}, {2}, {4}]


@pytest.mark.parametrize("workers", [pytest.param(0, marks=pytest.mark.slow), 2])
def test_killed_while_a_later_batch_is_under_way(
    run: Run, whole: Path, crash_at: Callable[[int], None], tmp_path: Path, workers: int
) -> None:
    """Batch 2 (of version 2) has not ended when the run dies at step 4: the checkpoint holds that version, and the run
    goes on on workers or in one process."""
    out = tmp_path / "out"
    crash_at(4)
    with local_workers(held=lambda task: task.request.version == 2), pytest.raises(Crash):
        run(out, *LAGGING)
    folder = RunFolder.open(out)
    assert folder.batches() == [0, 1]
    assert (folder.path / "checkpoints/step-000004/weights-000002.safetensors").exists()
    crash_at(0)
    if workers:
        with local_workers(workers):
            run(out, *LAGGING, resume=True)
    else:
        run(out, *LAGGING, resume=True)
    assert weights(out) == weights(whole)
    assert steps(out) == list(range(9))
    assert versions(out) == [{0}, {0}, {2}, {4}]


@pytest.mark.slow
def test_the_store_of_workers_is_lost_while_another_version_is_published(run: Run, whole: Path, tmp_path: Path) -> None:
    """Version 2 is stored again from the copy that is kept, though the policy has gone on to version 4."""
    lost: list[int] = []

    def once(task: Task) -> bool:
        step = len(RunFolder.open(tmp_path / "out").metrics())
        if task.request.version == 2 and step <= 3:
            return True  # until training on batch 1 has begun
        if task.request.version == 2 and not lost:
            lost.append(step)
            transports[0].restart = True
            return True
        return False

    with local_workers(held=once) as transports:
        run(tmp_path / "out", *LAGGING)
    assert lost
    assert weights(tmp_path / "out") == weights(whole)


def test_a_later_batch_may_be_on_disk_before_earlier_steps_are_done(
    run: Run, whole: Path, crash_at: Callable[[int], None], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    crash_at(4)
    with pytest.raises(Crash):
        run(out, *LAGGING)
    folder = RunFolder.open(out)
    assert folder.batches() == [0, 1, 2]
    assert steps(out)[-1] == 4
    assert not [said for said in lost_parts(folder) if "rollouts" in said or "rows" in said]
    crash_at(0)
    # The batch that is ahead is damaged, and its version is in no checkpoint but an earlier one's own weights.
    folder.rollouts_path(2).write_bytes(b"damaged")
    run(out, *LAGGING, resume=True)
    same_run(whole, out)


def test_a_batch_of_another_policy_stops_the_run(run: Run, crash_at: Callable[[int], None], tmp_path: Path) -> None:
    out = tmp_path / "out"
    crash_at(4)
    with pytest.raises(Crash):
        run(out, *LAGGING)
    crash_at(0)
    folder = RunFolder.open(out)
    stale = [replace(r, completion=replace(r.completion, version=0)) for r in folder.read_rollouts(2) or ()]
    folder.rollouts_path(2).unlink()
    folder.write_rollouts(2, stale, {"step": 5})
    with pytest.raises(EngineFailure, match=r"batch 2 was sampled by version \{0\}.*must be by version 2"):
        run(out, *LAGGING, resume=True)


def test_what_goes_wrong_ahead_is_said_by_the_run(run: Run, tmp_path: Path) -> None:
    def breaks(task: Task) -> bool:
        if task.request.version == 2:
            raise EngineFailure("the network is gone")
        return False

    with local_workers(held=breaks), pytest.raises(EngineFailure, match="the network is gone"):
        run(tmp_path / "out", *LAGGING)


OLD = [
    # lag, updates a batch, correction, exact engine
    (0, 1, "none", True, "current"),
    (0, 2, "none", True, "engine"),
    (0, 2, "none", False, "pass"),
    (0, 2, "tis", True, "engine"),
    (1, 1, "none", True, "engine"),
    (1, 2, "none", False, "engine"),
    (1, 1, "tis", True, "current"),
    (1, 2, "tis", True, "pass"),
]


@pytest.mark.parametrize(("lag", "updates", "correction", "exact", "source"), OLD)
def test_where_old_logprobs_come_from(lag: int, updates: int, correction: str, exact: bool, source: str) -> None:
    chosen = recipe(f"rollout.lag={lag}", f"algorithm.mini_batches={updates}", f"algorithm.correction={correction}")
    assert old_source(chosen, exact=exact) == source


@pytest.mark.parametrize("correction", ["none", "tis"])
def test_behaviour_proximal_and_current_policy_are_kept_apart(
    tiny_folder: Callable[..., Path], correction: str
) -> None:
    checkpoint = load_checkpoint(str(tiny_folder("qwen3")))
    assert checkpoint.config is not None
    model = Decoder(checkpoint.config, checkpoint.tensors, torch.float64, "cpu")
    chosen = recipe(
        "rollout.lag=1", "algorithm.mini_batches=2", "rollout.temperature=0.7", f"algorithm.correction={correction}",
        *(["algorithm.correction_cap=1.1"] if correction == "tis" else []),
    )  # fmt: skip
    made = groups()
    noise = torch.Generator().manual_seed(7)

    def shake(by: float) -> None:
        with torch.no_grad():
            for _, parameter in model.named_parameters():
                parameter += by * torch.randn(parameter.shape, generator=noise, dtype=torch.float64)

    rollouts = [rollout for group in made for rollout in group]
    for rollout in rollouts:  # by the behaviour policy
        rollout.completion.logprobs[:] = logprobs_with_graph(model, rollout).detach().numpy()
    behaviour = [torch.from_numpy(r.completion.logprobs).double() for r in rollouts]
    shake(0.02)
    proximal = [logprobs_with_graph(model, rollout).detach() for rollout in rollouts]
    batch = RolloutBatch(0, tuple(tuple(group) for group in made), (False,) * len(made), tuple(range(len(made))))
    sources = SimpleNamespace(engine=SimpleNamespace(exact_logprobs=True))
    run = SimpleNamespace(recipe=chosen, model=model, micro_batch_tokens=60, sources=sources)
    old = old_logprobs(run, batch)  # type: ignore[arg-type]
    shake(0.02)
    expected = 0.0
    for rollout, behave, near in zip(rollouts, behaviour, proximal, strict=True):
        new = logprobs_with_graph(model, rollout).detach()
        weight: Tensor | float = (near - behave).exp().clamp(max=1.1) if correction == "tis" else 1.0
        ratio = (new - (near if correction == "tis" else behave)).exp()
        expected += float((weight * clipped(ratio, float(rollout.advantage), 0.2, 0.2)).mean()) / 16
    MasterAdamW(model, chosen.optimizer)
    stats = accumulate_gradients(chosen, model, None, MiniBatch(made, old), 0, 60)
    assert stats.loss == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["rollout.lag=9"], "lag"),
        (["rollout.lag=1", "algorithm.type=rloo"], "no ratio to the policy that sampled.*algorithm.correction=tis"),
        (
            ["rollout.lag=1", "rollout.top_p=0.9", "rollout.allow_truncated=true", "algorithm.correction=tis"],
            "cuts the distribution",
        ),
    ],
)
def test_what_makes_no_sense_is_refused(overrides: list[str], said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        recipe(*overrides)


def test_rloo_with_a_correction_may_lag() -> None:
    assert recipe("rollout.lag=1", "algorithm.type=rloo", "algorithm.correction=tis").rollout.lag == 1


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_killed_at_random_points(recipe_file: Path, tmp_path: Path) -> None:
    lagging = tmp_path / "lagging.yaml"
    text = recipe_file.read_text().replace("rollout: {", "rollout: {lag: 2, ").replace("epochs: 2, ", "")
    lagging.write_text(text.replace("steps: 8", "steps: 9"))
    whole = tmp_path / "killed-whole"
    calls = int(die(lagging, whole, 0, "").stdout)
    kill_and_resume(lagging, whole, random.Random(5).sample(range(1, calls), 6), tmp_path)
