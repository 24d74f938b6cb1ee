"""The update under every objective: its gradient is that of the formula on full logits, however tokens are cut; an
objective outside the package trains."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from rethink.cli.main import main
from rethink.kernels import head
from rethink.kinds.grpo.recipe import Recipe
from rethink.kinds.grpo.update import MiniBatch, accumulate_gradients, compute_logprobs
from rethink.model.build import build_model
from rethink.model.decoder.decoder import Decoder
from rethink.model.decoder.packing import PackedGroup, pack
from rethink.model.loading import Checkpoint, load_checkpoint
from rethink.observe.glossary import describe
from rethink.recipe.objective import objectives
from rethink.runs.optimizer import MasterAdamW
from rethink.store.run_folder import RunFolder
from rethink.types import Rollout
from tests.kinds.grpo.test_update import groups, recipe

OUTSIDE = Path(__file__).parents[2] / "algorithms/outside"
TEMPERATURE = 0.7

Formula = Callable[[Recipe, Tensor, Tensor, Tensor, float], Tensor]


@pytest.fixture
def checkpoint(tiny_folder: Callable[..., Path]) -> Checkpoint:
    return load_checkpoint(str(tiny_folder("qwen3")))


def decoder(checkpoint: Checkpoint) -> Decoder:
    assert checkpoint.config is not None
    return Decoder(checkpoint.config, checkpoint.tensors, torch.float64, "cpu")


def logprobs_with_graph(model: Decoder, rollout: Rollout) -> Tensor:
    """Of one rollout alone, from all its logits by plain autograd: no packing with others, no chunks."""
    completion = rollout.completion.token_ids.tolist()
    batch = pack([PackedGroup(rollout.prompt.token_ids, [completion])])
    logits = model.hidden(batch)[batch.head_rows_C] @ model.head.t() / TEMPERATURE
    return logits.log_softmax(-1)[torch.arange(len(completion)), completion]


def clipped(ratio: Tensor, advantage: float, low: float, high: float) -> Tensor:
    return -torch.minimum(ratio * advantage, ratio.clamp(1 - low, 1 + high) * advantage)


def grpo(new: Tensor, old: Tensor, advantage: float) -> Tensor:
    return clipped((new - old).exp(), advantage, 0.2, 0.2)


def gspo(new: Tensor, old: Tensor, advantage: float) -> Tensor:
    return clipped((new - old).mean().exp(), advantage, 0.05, 0.1).expand(len(new))


def cispo(new: Tensor, old: Tensor, advantage: float) -> Tensor:
    return -(new - old).exp().detach().clamp(max=5) * advantage * new


def rloo(new: Tensor, old: Tensor, advantage: float) -> Tensor:
    return -advantage * new


WHOLE = {"tis": False, "sequence-tis": True, "mask": False, "sequence-mask": True}


def weights(kind: str | None, old: Tensor, engine: Tensor) -> Tensor:
    if kind is None:
        return torch.ones_like(old)
    gap = (old - engine).detach()
    w = (gap.sum().expand(len(gap)) if WHOLE[kind] else gap).exp()
    if kind.endswith("tis"):
        return w.clamp(max=1.1)
    return torch.where((w >= 0.9) & (w <= 1.1), w, 0.0)


CASES: list[tuple[str, Callable[..., Tensor], str | None, bool]] = [
    ("gspo", gspo, None, True),
    ("gspo", gspo, "sequence-tis", True),
    ("gspo", gspo, None, False),
    ("grpo", grpo, "sequence-mask", True),
    ("grpo", grpo, "sequence-mask", False),
    ("grpo", grpo, "mask", True),
    ("cispo", cispo, "tis", True),
    ("rloo", rloo, "sequence-tis", False),
]


@pytest.mark.parametrize(("name", "formula", "correction", "with_old"), CASES)
def test_the_update_is_that_of_the_formula_however_tokens_are_cut(
    checkpoint: Checkpoint,
    name: str,
    formula: Callable[..., Tensor],
    correction: str | None,
    with_old: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Chunks of 5 tokens cut completions of 12; micro-batches hold a few completions each."""
    extra = [f"algorithm.type={name}", f"rollout.temperature={TEMPERATURE}", "algorithm.aggregation=sequence"]
    extra += ["algorithm.clip_low=0.05", "algorithm.clip_high=0.1"] if name == "gspo" else []
    if correction is not None:
        extra += [f"algorithm.correction={correction}", "algorithm.correction_cap=1.1"]
        extra += ["algorithm.correction_floor=0.9"] if "mask" in correction else []
    chosen, made = recipe(*extra), groups()
    noise = torch.Generator().manual_seed(7)
    plain, old, parts = decoder(checkpoint), [], []
    for _, parameter in plain.named_parameters():
        parameter.requires_grad_()
    for group in made:
        for rollout in group:
            new = logprobs_with_graph(plain, rollout)
            before = new.detach() + 0.1 * torch.randn(len(new), generator=noise, dtype=torch.float64) * with_old
            old.append(before)
            engine = before + 0.08 * torch.randn(len(new), generator=noise, dtype=torch.float64)
            rollout.completion.logprobs[:] = engine.numpy()
            engine = torch.from_numpy(rollout.completion.logprobs).double()
            loss = weights(correction, before, engine) * formula(new, before, rollout.advantage)
            parts.append(loss.mean() / 16)
    expected = torch.stack(parts).sum()
    expected.backward()

    monkeypatch.setattr(head, "CHUNK_ROWS", 5)
    model = decoder(checkpoint)
    optimizer = MasterAdamW(model, chosen.optimizer)
    stats = accumulate_gradients(chosen, model, None, MiniBatch(made, old if with_old else None), 0, 60)
    assert stats.loss == pytest.approx(expected.item(), rel=1e-9)
    wanted = {n: p.grad for n, p in plain.named_parameters()}
    for key, gradient in optimizer.gradients().items():
        assert (gradient - wanted[key]).abs().max() <= 1e-9 * wanted[key].abs().max(), key
    assert max(float(g.abs().max()) for g in optimizer.gradients().values()) > 1e-4
    found = stats.metrics(chosen.algorithm)
    assert ("policy/correction_cut" in found) == (correction is not None)
    if correction is not None:
        assert 0 < found["policy/correction_cut"] < 1
        assert all(describe(metric) for metric in found)
    if with_old and name != "rloo":
        assert found["policy/clip_high"] + found["policy/clip_low"] > 0 or name == "cispo"


def test_models_that_compute_completion_by_completion_give_the_same(checkpoint: Checkpoint) -> None:
    """Transformers models call the objective once for each completion: its length must be found."""
    chosen = recipe("algorithm.type=gspo", "algorithm.clip_high=0.1", "algorithm.correction=sequence-tis")
    found = []
    for slow in (False, True):
        model, made = build_model(checkpoint, "float32", "cpu", force_transformers=slow), groups()
        torch.manual_seed(0)
        old = [logprobs - 0.1 * torch.rand(1) for logprobs in compute_logprobs(model, made, 1.0, 99)]
        MasterAdamW(model, chosen.optimizer)
        stats = accumulate_gradients(chosen, model, None, MiniBatch(made, old), 0, 60)
        found.append(stats.metrics(chosen.algorithm))
    assert found[0] == pytest.approx(found[1], rel=1e-4, abs=1e-5)


def test_only_sums_over_completions_cost_a_second_pass(checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the body is computed once, whatever the objective needs."""
    passes: dict[str, int] = {"head": 0, "body": 0}
    logprobs, hidden = head.token_logprobs, Decoder.hidden

    def counted(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            passes[name] += 1
            return function(*args)

        return call

    monkeypatch.setattr(head, "token_logprobs", counted("head", logprobs))
    monkeypatch.setattr(Decoder, "hidden", counted("body", hidden))
    for overrides, extra in [
        ([], 0),
        (["algorithm.correction=tis"], 0),
        (["algorithm.type=gspo"], 1),
        (["algorithm.correction=sequence-tis"], 1),
    ]:
        passes.update(head=0, body=0)
        model = decoder(checkpoint)
        MasterAdamW(model, recipe().optimizer)
        accumulate_gradients(recipe(*overrides), model, None, MiniBatch(groups()), 0, 10_000)
        assert passes == {"head": extra, "body": 1}, overrides


# --- whole runs -----------------------------------------------------------------------------------------------------

SHORT = ("steps=2", "evaluation.problems=0", "evaluation.every=null", "evaluation.every_problems=null")
SHORT += ("optimizer.warmup_steps=0", "algorithm.beta=0", "algorithm.reference_every=null")
ONE_UPDATE = ("algorithm.mini_batches=1", "algorithm.epochs=1")


def test_a_run_of_gspo_with_a_correction(run: Callable[..., Any], tmp_path: Path) -> None:
    wanted = ("algorithm.type=gspo", "algorithm.aggregation=sequence", "algorithm.correction=sequence-tis")
    run(tmp_path / "out", *SHORT, *wanted)
    row = RunFolder.open(tmp_path / "out").metrics()[-1]
    assert row["policy/correction"] == pytest.approx(1.0, abs=1e-3)
    assert row["policy/correction_cut"] == 0
    assert row["optimizer/grad_norm"] > 0


@pytest.fixture
def _installed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.syspath_prepend(OUTSIDE)
    objectives.cache_clear()
    yield
    objectives.cache_clear()
    sys.modules.pop("toy_objective", None)


@pytest.mark.usefixtures("_installed")
def test_an_objective_outside_the_package_trains(
    run: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    norms = []
    for scale in ("1", "2"):
        out = tmp_path / scale
        run(out, *SHORT, *ONE_UPDATE, "algorithm.type=toy", f"algorithm.options.scale={scale}", "steps=1")
        norms.append(RunFolder.open(out).metrics()[-1]["optimizer/grad_norm"])
    assert norms[1] == pytest.approx(2 * norms[0], rel=1e-3)
    assert norms[0] > 0
    assert main(["algorithms", "toy"]) == 0
    shown = capsys.readouterr().out
    assert "-scale A log p" in shown
    assert "options.scale: factor of the advantages (default 1)" in shown


TERMS = {
    "entropy": "{entropy_bonus: 0.01, top_entropy: 0.2}",
    "covariance": "{covariance: kl, mini_batches: 2, options: {cov_share: 0.1}}",
    "clip-cov": "{type: dapo, covariance: clip}",
    "mask": "{off_policy_mask: 0.001, epochs: 2, beta: 0.05, kl: unbiased-k3}",
    "adaptive": "{type: reinforce, advantage: leave-one-out, beta: 0.05, kl_in: reward, kl_target: 1}",
}


@pytest.mark.slow
@pytest.mark.parametrize("name", [*(o.name for o in objectives().values() if "values" not in o.needs), *TERMS])
def test_every_method_trains(run: Callable[..., Any], tmp_path: Path, name: str) -> None:
    k = ", options: {k: 2}" if name == "pass-at-k" else ""
    algorithm = TERMS.get(name, f"{{type: {name}{k}}}")
    run(tmp_path / "out", *SHORT[:5], f"algorithm={algorithm}", "steps=3")
    rows = RunFolder.open(tmp_path / "out").metrics()[1:]
    assert all(row["optimizer/grad_norm"] > 0 for row in rows)
    assert all(describe(metric) for row in rows for metric in row)
