"""The loop: what is a step, which groups it uses, when the reference is replaced, what the run's folder holds then."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from rethink.errors import EngineFailure, NumericsError, RewardFailure, TaskError
from rethink.kinds.grpo.loop import chosen_groups
from rethink.model.loading import load_checkpoint
from rethink.recipe.recipe_files import load_recipe
from rethink.rollout.engines.scripted import Scripted, ScriptedEngine
from rethink.store.run_folder import RunFolder
from rethink.types import GenerationRequest

Run = Callable[..., dict[str, Any]]


def test_an_epoch_uses_each_group_once(recipe_file: Path) -> None:
    recipe = load_recipe(recipe_file, ["rollout.prompts_per_batch=6", "algorithm.mini_batches=3"])
    for batch in range(3):
        parts = [chosen_groups(recipe, batch, position) for position in range(6)]
        assert all(len(part) == 2 for part in parts)
        assert sorted(parts[0] + parts[1] + parts[2]) == sorted(parts[3] + parts[4] + parts[5]) == list(range(6))
    assert chosen_groups(recipe, 0, 0) != chosen_groups(recipe, 1, 0) or chosen_groups(recipe, 0, 1) != chosen_groups(
        recipe, 1, 1
    )


def test_a_run_leaves_everything_that_the_docs_promise(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "out"
    summary = run(out)
    folder = RunFolder.open(out)
    rows = folder.metrics()
    assert [row["step"] for row in rows] == list(range(9))
    assert [row["batch"] for row in rows[1:]] == [0] * 4 + [1] * 4
    assert {row["step"] for row in rows if "eval/accuracy" in row} == {0, 3, 6, 8}
    assert [row["eval/n"] for row in rows if "eval/accuracy" in row] == [4, 2, 2, 4]
    assert [row["eval/judged"] for row in rows if "eval/accuracy" in row] == [4, 2, 2, 4]
    assert folder.batches() == [0, 1]
    first = folder.rollout_rows(0)
    assert len(first) == 12
    assert {row["step"] for row in first} == {1}
    # Seconds of sampling count once a batch.
    assert [row["time/rollout"] > 0 for row in rows[1:]] == [True, False, False, False] * 2
    assert {"model", "best", "report.html", "summary.json"} <= {path.name for path in out.iterdir()}
    assert len(list((out / "checkpoints").glob("step-*"))) == 2
    assert load_checkpoint(str(out / "model")).config is not None
    assert summary["tokens_total"] == sum(folder.rollout_rows(b)[i]["tokens"] for b in (0, 1) for i in range(12))
    # Off-policy passes move the ratio away from 1; the first pass of a batch is on it.
    assert rows[1]["policy/ratio_max"] == pytest.approx(1, abs=1e-5)
    assert abs(rows[4]["policy/ratio_max"] - 1) > 1e-5
    assert rows[1]["policy/mismatch_max"] < 1e-3


def test_the_reference_is_replaced_every_n_steps(run: Run, tmp_path: Path) -> None:
    run(tmp_path / "out", "steps=7", "checkpoint.every=1", "checkpoint.keep=10", "algorithm.reference_every=3")
    references, masters = {}, {}
    for step in range(1, 8):
        folder = tmp_path / "out" / "checkpoints" / f"step-{step:06d}"
        references[step] = load_file(folder / "reference.safetensors")
        masters[step] = load_file(folder / "optimizer.safetensors")
    name = next(iter(references[1]))
    assert torch.equal(references[1][name], references[2][name])
    for step in (3, 6):
        assert all(torch.equal(references[step][n], masters[step][f"weight.{n}"]) for n in references[step])
    assert torch.equal(references[3][name], references[5][name])
    assert not torch.equal(references[5][name], references[6][name])


def test_the_token_limit_changes_at_a_step(run: Run, tmp_path: Path) -> None:
    run(tmp_path / "out", "rollout.max_new_tokens={0: 3, 4: 6}")
    folder = RunFolder.open(tmp_path / "out")
    assert max(row["tokens"] for row in folder.rollout_rows(0)) == 3
    assert max(row["tokens"] for row in folder.rollout_rows(1)) == 6


def scripted(recipe_file: Path, lines: list[Scripted | str]) -> Callable[..., ScriptedEngine]:
    encode = load_checkpoint(load_recipe(recipe_file).model.path).tokenizer.encode
    return lambda *_: ScriptedEngine(lines, encode)


def test_groups_without_signal_are_counted_and_leave_the_weights_alone(
    run: Run, recipe_file: Path, tmp_path: Path
) -> None:
    engine = scripted(recipe_file, ["same"])
    run(tmp_path / "out", "algorithm={beta: 0}", "evaluation={problems: 0}", engine=engine)
    rows = RunFolder.open(tmp_path / "out").metrics()[1:]
    assert {row["rollout/no_signal"] for row in rows} == {1.0}
    assert {row["optimizer/grad_norm"] for row in rows} == {0.0}
    trained = load_checkpoint(str(tmp_path / "out" / "model")).tensors
    start = load_checkpoint(load_recipe(recipe_file).model.path).tensors
    assert all(torch.equal(trained[name].float(), start[name].float()) for name in start)


def test_an_engine_that_breaks_leaves_a_run_that_goes_on(run: Run, recipe_file: Path, tmp_path: Path) -> None:
    lines: list[Scripted | str] = ["one", "two 2", "3"] * 4
    broken = scripted(recipe_file, [*lines, Scripted("", failure="the node is gone")])
    overrides = ("evaluation={problems: 0}", "checkpoint.every=2")
    with pytest.raises(EngineFailure, match="the node is gone"):
        run(tmp_path / "out", *overrides, engine=broken)
    steps = [row["step"] for row in RunFolder.open(tmp_path / "out").metrics()]
    assert steps == [0, 1, 2, 3, 4]
    summary = run(tmp_path / "out", *overrides, resume=True, engine=scripted(recipe_file, lines))
    assert summary["finished"]


def test_an_unexpected_error_of_an_engine_says_what_to_do(run: Run, tmp_path: Path) -> None:
    class Broken(ScriptedEngine):
        def _step(self) -> bool:
            raise MemoryError("no more")

    with pytest.raises(EngineFailure, match=r"MemoryError.*--resume"):
        run(tmp_path / "out", "evaluation={problems: 0}", engine=lambda *_: Broken(["x"], lambda _: [1]))


def test_rewards_that_fail_stop_the_run(run: Run, recipe_file: Path, tmp_path: Path) -> None:
    (recipe_file.parent / "broken_reward_for_test.py").write_text("def f(problem, text):\n    raise OSError('gone')\n")
    with pytest.raises(RewardFailure, match=r"12 of 12 .*OSError: gone"):
        run(
            tmp_path / "out",
            "evaluation={problems: 0}",
            "reward.parts=[{name: mine, function: 'broken_reward_for_test:f'}]",
        )
    assert RunFolder.open(tmp_path / "out").batches() == []  # mended and resumed, the batch is scored anew


def test_a_run_that_diverges_stops_with_its_last_checkpoint_sound(run: Run, tmp_path: Path) -> None:
    overrides = ("checkpoint.every=1", "optimizer={learning_rate: 1.0e+30, max_grad_norm: null}")
    with pytest.raises(NumericsError, match="learning_rate"):
        run(tmp_path / "out", *overrides)
    assert RunFolder.open(tmp_path / "out").latest_checkpoint() is not None


def test_a_prompt_longer_than_the_context_is_found_at_start(run: Run, tmp_path: Path) -> None:
    with pytest.raises(TaskError, match=r"prompt of problem .* tokens"):
        run(tmp_path / "out", f"prompt.instruction={'long ' * 300}{{question}}")


def test_rewards_begin_while_rollouts_go_on_and_failures_are_counted(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first completion has been scored when the last one is made; a checker that breaks is named."""
    seen = tmp_path / "seen"
    (tmp_path / "rewards_that_break.py").write_text(
        f"def first(problem, text):\n    open({str(seen)!r}, 'a').write('x')\n    return len(text)\n"
        "def broken(problem, text):\n    return 1 / 0\n"
    )
    waited: list[bool] = []

    def script(request: GenerationRequest, sample: int) -> str:
        waited.append(True)
        if len(waited) == 12:  # the last of the batch: wait for the reward of an earlier one
            until = time.monotonic() + 60
            while not seen.exists() and time.monotonic() < until:
                time.sleep(0.01)
            assert seen.exists()
        return f"text {sample}"

    parts = "[{name: first, function: 'rewards_that_break:first'}, {name: bad, function: 'rewards_that_break:broken'}]"
    out = tmp_path / "out"
    run(
        out,
        "steps=1",
        "optimizer={}",
        "algorithm={}",
        "evaluation={problems: 0}",
        f"reward={{parts: {parts}, max_failure_share: 1}}",
        engine=lambda model, checkpoint: ScriptedEngine(script, checkpoint.tokenizer.encode),
    )
    row = RunFolder.open(out).metrics()[-1]
    assert row["failure/exception"] == 12
    assert row["reward/failed"] == 0.5
