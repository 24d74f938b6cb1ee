"""The stages of the GPU check. Each returns plain numbers, and under `failed` what must not be.

Bounds are those of rounding: fp32 against fp64 within 1e-4 of a norm, bf16 within 3e-2.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from rethink.check.gpu.job import (
    PARITY,
    Job,
    operations,
    random_decoder,
    random_groups,
    relative,
)
from rethink.model.decoder.packing import PackedGroup, pack

Found = dict[str, Any]
BOUNDS = {torch.float32: 1e-4, torch.bfloat16: 3e-2}
"""Largest relative difference that rounding explains."""


@dataclass(frozen=True, slots=True)
class Stage:
    """A part of the check."""

    run: Callable[[Job], Found]
    seconds: int
    """Its time limit."""
    what: str


def environment(job: Job) -> Found:
    """Versions, and the device."""
    import platform
    from importlib import metadata

    found: Found = {"python": platform.python_version(), "torch": torch.__version__, "cuda": torch.version.cuda}
    for name in ("transformers", "triton", "numpy", "pydantic"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    if job.device == "cuda":
        properties = torch.cuda.get_device_properties(0)
        found |= {
            "device": properties.name,
            "capability": f"{properties.major}.{properties.minor}",
            "memory_gib": round(properties.total_memory / 2**30, 1),
        }
    return found


def rates(job: Job) -> Found:
    """Matrix products (TFLOP/s) and copies (GB/s) at their best: what all shares refer to."""
    side = 256 if job.small else 8192
    found: Found = {}
    for name, dtype in (("bfloat16", torch.bfloat16), ("float32", torch.float32)):
        left, right = (torch.randn(side, side, device=job.device).to(dtype) for _ in range(2))
        found[f"{name}_tflops"] = 2.0 * side**3 / job.seconds(lambda a=left, b=right: a @ b, 10) / 1e12  # type: ignore[misc]
    source = torch.zeros((1 << 16) if job.small else (1 << 30), dtype=torch.float32, device=job.device)
    target = torch.empty_like(source)
    found["copy_gb_per_s"] = 2.0 * source.nbytes / job.seconds(lambda: target.copy_(source)) / 1e9
    return found


def parity(job: Job) -> Found:
    """Log-probabilities, entropies and gradients against the CPU in fp64, where no native kernel computes."""
    found, failed = {}, []
    for name, config in PARITY.items():
        groups = random_groups(config, *((2, 2, 20, 10) if job.small else (3, 4, 90, 60)))
        wanted = _values(random_decoder(config, torch.float64, "cpu"), pack(groups))
        for dtype, bound in BOUNDS.items():
            decoder = random_decoder(config, dtype, job.device)
            values = _values(decoder, pack(groups, job.device))
            worst = max((relative(values[key], wanted[key]), key) for key in wanted)
            label = f"{name}_{str(dtype).removeprefix('torch.')}"
            found[label] = {"worst": worst[0], "of": worst[1]}
            if not worst[0] <= bound:
                failed.append(f"{label}: {worst[1]} differs by {worst[0]:.2g} from the CPU in fp64, allowed {bound:g}")
    return found | {"failed": failed}


def _values(model: Any, batch: Any) -> dict[str, torch.Tensor]:
    """Log-probabilities, entropies and the gradient of every parameter, by name."""
    logprobs, entropies = model.completion_logprobs(batch)
    for _, parameter in model.named_parameters():
        parameter.grad = None
    loss, _, _ = model.completion_loss(batch, lambda logprobs_C, part: -logprobs_C.sum() / batch.target_tokens)
    loss.backward()
    gradients = {f"gradient of {name}": p.grad for name, p in model.named_parameters()}
    return {"log-probabilities": logprobs, "entropies": entropies} | gradients


def engine(job: Job) -> Found:
    """The engine's log-probabilities against the trainer's, of what it drew: training and sampling must agree."""
    from rethink.rollout.engines.torch import TorchEngine
    from rethink.types import GenerationRequest, SamplingParams

    found, failed = {}, []
    for dtype, bound in BOUNDS.items():
        model = random_decoder(PARITY["llama"], dtype, job.device)
        drawing = TorchEngine(model, lambda ids: " ".join(map(str, ids)))
        prompts = [g.prompt_ids for g in random_groups(model.config, 4, 0, 40, 0)]
        params = SamplingParams(max_new_tokens=24)
        drawn = drawing.generate(
            [GenerationRequest(tuple(ids), tuple(range(8 * i, 8 * i + 8)), params) for i, ids in enumerate(prompts)]
        )
        groups = [
            PackedGroup(ids, [completion.token_ids.tolist() for completion in completions])
            for ids, completions in zip(prompts, drawn, strict=True)
        ]
        trained = model.completion_logprobs(pack(groups, job.device))[0].cpu()
        reported = torch.cat([torch.from_numpy(c.logprobs) for completions in drawn for c in completions])
        gap = (trained - reported).abs()
        name = str(dtype).removeprefix("torch.")
        mean = float(gap.mean())
        found[name] = {"tokens": len(gap), "mean": mean, "max": float(gap.max())}
        if not mean <= bound:
            failed.append(f"{name}: engine and trainer differ by {mean:.2g} nats a token, allowed {bound:g}")
    return found | {"failed": failed}


def training(job: Job) -> Found:
    """Tokens a second of forward, backward and AdamW at the shape of Qwen3-0.6B, and the memory."""
    from rethink.runs.optimizer import MasterAdamW

    model = random_decoder(job.shape, job.dtype, job.device, spread=0.02)
    optimizer = MasterAdamW(model, _constants())
    found: Found = {}
    for name, prompts, new in (("short", 8, 248), ("long", 1, 4096)):
        if job.small:
            prompts, new = 1, 16
        row = pack(random_groups(job.shape, prompts, 4, 64, new), job.device)

        def step(row: Any = row) -> None:
            loss, _, _ = model.completion_loss(row, lambda logprobs_C, part: -logprobs_C.sum() / row.target_tokens)
            loss.backward()
            optimizer.step(1e-6)

        seconds = job.seconds(step, 2)
        found[name] = {
            "row_tokens": row.input_tokens,
            "tokens_per_s": row.input_tokens / seconds,
            "tflops": operations(job.shape, row) / seconds / 1e12,
            "peak_gib": job.peak_gib(),
        }
    return found


def _constants() -> Any:
    """The optimizer's section of a recipe, without what reads recipes (pydantic), which may not be there."""
    from types import SimpleNamespace

    return SimpleNamespace(beta1=0.9, beta2=0.95, epsilon=1e-8, weight_decay=0.0, max_grad_norm=1.0)


def decoding(job: Job) -> Found:
    """Tokens a second of the engine, and the share of what memory bandwidth alone would allow."""
    from rethink.rollout.engines.torch import TorchEngine
    from rethink.types import GenerationRequest, SamplingParams

    model = random_decoder(job.shape, job.dtype, job.device, spread=0.02)
    weights = sum(p.numel() * p.element_size() for _, p in model.named_parameters())
    found: Found = {"weights_gb": weights / 1e9}
    for sequences in (1, 4) if job.small else (8, 128):
        drawing = TorchEngine(model, lambda ids: "", kv_budget_bytes=8 << 30, max_concurrent=sequences)
        new = 8 if job.small else 128
        prompt = tuple(random_groups(job.shape, 1, 0, 64, 0)[0].prompt_ids)
        request = GenerationRequest(prompt, tuple(range(sequences)), SamplingParams(max_new_tokens=new))
        seconds = job.seconds(lambda d=drawing, r=request: d.generate([r]), 1)  # type: ignore[misc]
        found[f"{sequences}_sequences"] = {
            "tokens_per_s": sequences * new / seconds,
            "weights_read_gb_per_s": weights * new / seconds / 1e9,
        }
    return found


def sharding(job: Job) -> Found:
    """FSDP2 with one rank: the norm of the decoder's gradient against the whole decoder's, the seconds of a step, and a
    checkpoint (DCP) written and read back.
    """
    from rethink.distributed.sharded_group import ShardedGroup
    from rethink.distributed.sharded_optimizer import ShardedAdamW
    from rethink.runs.optimizer import MasterAdamW

    model = random_decoder(job.shape, job.dtype, job.device, spread=0.02)
    row = pack(random_groups(job.shape, 1, 2, 16, 16), job.device)

    def step(optimizer: Any) -> float:
        loss, _, _ = optimizer.trained.completion_loss(row, lambda logprobs_C, part: -logprobs_C.sum())
        loss.backward()
        return float(optimizer.step(1e-6))

    whole = step(MasterAdamW(random_decoder(job.shape, job.dtype, job.device, spread=0.02), _constants()))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        group = ShardedGroup(folder / "meeting", 0, 1, job.device, False, lambda rank, what: RuntimeError(what))
        optimizer = ShardedAdamW(group, model, _constants(), {}, 1, row.input_tokens)
        gap = abs(step(optimizer) - whole) / whole
        seconds = job.seconds(lambda: step(optimizer), 1)
        state = optimizer.state()
        before = {key: value.clone() for key, value in state.items()}
        optimizer.write(folder)
        with torch.no_grad():
            for value in state.values():
                value.zero_()
        optimizer.read(folder)
        after = optimizer.state()
        lost = [key for key, value in before.items() if not torch.equal(*map(_local, (value, after[key])))]
        group.close()
    failed = [f"{key}: other values after DCP" for key in lost]
    if not gap <= BOUNDS[job.dtype]:
        failed.append(f"the gradient's norm differs by {gap:.2g} from the whole decoder's")
    return {"step_s": seconds, "tensors": len(before), "norm_gap": gap, "failed": failed}


def _local(value: torch.Tensor) -> torch.Tensor:
    """A shard as a tensor of its own."""
    found: torch.Tensor = value.to_local() if hasattr(value, "to_local") else value
    return found


def handover(job: Job) -> Found:
    """Weights handed to another process without a copy (CUDA IPC), and their sum there."""
    import torch.multiprocessing as mp

    context = mp.get_context("spawn")
    theirs, ours = context.SimpleQueue(), context.SimpleQueue()
    process = context.Process(target=_receive, args=(theirs, ours), daemon=True)
    process.start()
    weights = torch.arange((1 << 10) if job.small else (1 << 28), dtype=torch.float32, device=job.device)
    theirs.put(weights)
    before = ours.get()
    weights += 1  # in place: the other process must see it
    job.sync()
    theirs.put("again")
    after = ours.get()
    process.join(30)
    wanted = [float(weights[-1]) - 1, float(weights[-1])]
    failed = [] if [before, after] == wanted else [f"the other process read {[before, after]}, not {wanted}"]
    return {"bytes": weights.nbytes, "failed": failed}


def _receive(theirs: Any, ours: Any) -> None:
    """The other process of `handover`: tells the last weight, twice."""
    weights = theirs.get()
    ours.put(float(weights[-1]))
    theirs.get()
    ours.put(float(weights[-1]))


def step_of_grpo(job: Job) -> Found:
    """One step of GRPO: rollouts of 16 prompts x 8, a scripted reward, an update; seconds of each, and the memory."""
    from rethink.algorithms.advantages import group_advantages
    from rethink.kinds.grpo.recipe import Recipe
    from rethink.kinds.grpo.update import MiniBatch, accumulate_gradients
    from rethink.rollout.engines.torch import TorchEngine
    from rethink.runs.optimizer import MasterAdamW, apply_update
    from rethink.types import GenerationRequest, Problem, Prompt, Rollout, SamplingParams

    prompts, size, new = (2, 2, 8) if job.small else (16, 8, 256)
    recipe = Recipe.model_validate(
        {"name": "gpu-check", "steps": 9, "tasks": [{"kind": "reasoning-gym", "name": "chain_sum"}]}
    )
    model = random_decoder(job.shape, job.dtype, job.device, spread=0.02)
    optimizer = MasterAdamW(model, recipe.optimizer)
    drawing = TorchEngine(model, lambda ids: "", kv_budget_bytes=8 << 30)
    asked = [Prompt("", tuple(g.prompt_ids)) for g in random_groups(job.shape, prompts, 0, 64, 0)]
    params = SamplingParams(max_new_tokens=new)
    requests = [
        GenerationRequest(p.token_ids, tuple(range(i * size, (i + 1) * size)), params) for i, p in enumerate(asked)
    ]
    drawn = drawing.generate(requests)
    rewards = torch.tensor([[float(c.token_ids[-1] % 2) for c in row] for row in drawn])
    advantages = group_advantages(rewards, "std")
    groups = [
        [
            Rollout(Problem("p", "t", "q", None), prompt, c, {}, float(rewards[i, j]), float(advantages[i, j]))
            for j, c in enumerate(drawn[i])
        ]
        for i, prompt in enumerate(asked)
    ]

    def update() -> None:
        accumulate_gradients(recipe, model, None, MiniBatch(groups, None, [False] * len(groups)), 0, 16_384)
        apply_update(optimizer, recipe.optimizer, 0, recipe.steps)

    return {
        "completion_tokens": sum(len(c.token_ids) for row in drawn for c in row),
        "rollout_s": job.seconds(lambda: drawing.generate(requests), 1),
        "update_s": job.seconds(update, 1),
        "peak_gib": job.peak_gib(),
    }


STAGES: Mapping[str, Stage] = {
    "environment": Stage(environment, 60, "versions and the device"),
    "rates": Stage(rates, 60, "matrix products and memory bandwidth"),
    "parity": Stage(parity, 120, "values and gradients against the CPU"),
    "engine": Stage(engine, 60, "sampling against training"),
    "training": Stage(training, 120, "training at the shape of Qwen3-0.6B"),
    "decoding": Stage(decoding, 90, "sampling at the shape of Qwen3-0.6B"),
    "step": Stage(step_of_grpo, 120, "a step of GRPO"),
    "sharding": Stage(sharding, 90, "FSDP2 and a distributed checkpoint, one rank"),
    "handover": Stage(handover, 60, "weights to another process"),
}
"""By name, in order. Speeds come after what must hold."""
