"""Where a step's time and memory go: `rethink profile`.

A warm-up, then timed steps in which only phases are clocked, then traced ones in which every torch operation and
native kernel is. Tracing costs time of its own: phases come from the timed steps, operations from the traced ones.
Whole rollout batches are measured, so that sampling is charged to the steps that it serves.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, record_function
from torch.profiler import profile as torch_profile

from rethink.errors import UsageError
from rethink.kernels.native.library import status
from rethink.kernels.trace import span, watching
from rethink.kinds.grpo.data import task_mix
from rethink.kinds.grpo.loop import GRPO, one_step
from rethink.kinds.grpo.operations import PHASES, Operation, event_name, operations_of
from rethink.kinds.grpo.recipe import Recipe
from rethink.kinds.grpo.run import assemble, open_folder
from rethink.machine.limits import peak_rss_mb
from rethink.machine.speed import ComputeType, measure_gemm
from rethink.model.decoder.decoder import Decoder
from rethink.model.loading import load_model
from rethink.observe.progress import make_progress
from rethink.recipe.checks import check_against_context


@dataclass(slots=True)
class Phase:
    """A phase of a step; what its own sub-phases took is theirs alone."""

    name: str
    depth: int
    calls: float = 0.0
    seconds: float = 0.0
    """While clocked: in all. In a profile: of a step, as are the calls."""
    share: float = 0.0
    """Of the step's time."""
    rss_mb: float | None = None
    """Resident memory when it last ended; None where the system does not say."""
    peak_mb: float | None = None
    """Highest resident memory while it was going on, sub-phases included."""


@dataclass(frozen=True, slots=True)
class TrainingShare:
    """How much of the machine's matrix-product rate training reached."""

    gflop: float
    """Necessary work of a step: 6 x (block parameters x input tokens + head parameters x completion tokens); 2 x for a
    pass without gradients. A prompt counts once a micro-batch, attention does not."""
    seconds: float
    """Passes and optimizer."""
    gflops: float
    share: float
    input_tokens: float
    target_tokens: float


@dataclass(frozen=True, slots=True)
class Profile:
    """What was measured. Times are seconds of one step."""

    recipe: str
    steps: int
    traced_steps: int
    dtype: str
    threads: int
    kernels: str
    kernels_reason: str
    product_gflops: float
    """The machine's rate, measured just before and after."""
    step_s: float
    traced_step_s: float
    """The same under the tracer: what operations add up to."""
    tokens_sampled: float
    peak_rss_mb: float
    phases: list[Phase]
    operations: list[Operation]
    training: TrainingShare | None
    """None where no group had a signal to train on, or the model's shape is not known."""


def profile_recipe(recipe: Recipe, steps: int = 2, note: Callable[[str], None] = lambda text: None) -> Profile:
    """Run a warm-up and `steps` steps (rounded up to whole rollout batches) in a temporary folder, and measure them.

    Raises:
        UsageError: the recipe cannot be run here, or would not run on the processor.
    """
    batch = recipe.steps_per_batch
    timed = -(-steps // batch) * batch
    recipe = _without_extras(recipe, batch + timed + batch)
    checkpoint = load_model(recipe.model)
    if checkpoint.config is not None:
        check_against_context(recipe.prompt, recipe.token_limits(), checkpoint.config.max_position_embeddings)
    with tempfile.TemporaryDirectory(prefix="rethink-profile-") as temporary:
        mix = task_mix(recipe)
        folder = open_folder(recipe, checkpoint, mix, Path(temporary) / "run", resume=False)
        if folder.choices["device"] != "cpu":
            raise UsageError(
                f"the device would be {folder.choices['device']}, and a profile measures the processor's operations "
                "only; add device=cpu"
            )
        with folder.lock():
            run = assemble(recipe, checkpoint, mix, folder, make_progress("none"), None)
            try:
                return _measured(run, timed, note)
            finally:
                run.sources.rubric.close()


def _without_extras(recipe: Recipe, steps: int) -> Recipe:
    """No evaluation, no trackers, and enough steps."""
    evaluation = recipe.evaluation.model_copy(update={"problems": 0, "every": None, "every_problems": None})
    return recipe.model_copy(update={"evaluation": evaluation, "trackers": (), "steps": max(recipe.steps, steps)})


def _measured(run: GRPO, steps: int, note: Callable[[str], None]) -> Profile:
    batch, dtype = run.recipe.steps_per_batch, run.folder.choices["dtype"]
    note(f"warm-up, {_steps(batch)} ...")
    _run(run, batch)
    rates = [_rate(dtype)]
    note(f"timing {_steps(steps)} ...")
    before = run.state.tokens_total
    clock = PhaseClock()
    with watching(clock):
        _run(run, steps)
    sampled = (run.state.tokens_total - before) / steps
    peak = clock.phases["step"].peak_mb or peak_rss_mb()
    rates.append(_rate(dtype))
    rate = sum(rates) / len(rates)
    note(f"tracing {_steps(batch)} ...")
    with torch_profile(activities=[ProfilerActivity.CPU], record_shapes=True) as tracer, watching(_record):
        torch.ones(1).add_(1)  # the tracer's own start is charged to its first event, which no step shall be
        _run(run, batch)
    operations, traced_s = operations_of(tracer.events(), _matrices(run), batch, rate)
    training = _training_share(run, clock, steps, rate)
    kernels = status()
    return Profile(
        recipe=run.recipe.name, steps=steps, traced_steps=batch, dtype=dtype, threads=run.folder.choices["threads"],
        kernels=kernels.level, kernels_reason=kernels.reason, product_gflops=rate, step_s=clock.total / steps,
        traced_step_s=traced_s, tokens_sampled=sampled, peak_rss_mb=peak,
        phases=clock.per_step(steps), operations=operations, training=training,
    )  # fmt: skip


def _run(run: GRPO, steps: int) -> None:
    for _ in range(steps):
        with span("step"):
            one_step(run)


def _steps(number: int) -> str:
    return f"{number} step{'s' if number > 1 else ''}"


def _rate(dtype: ComputeType) -> float:
    return measure_gemm((dtype,))[dtype]


# --- phases ------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class PhaseClock:
    """A watcher that adds up what each phase took by itself, and the memory around it."""

    phases: dict[str, Phase] = field(default_factory=dict)
    sizes: dict[str, list[int]] = field(default_factory=dict)
    """Sums of the spans' sizes."""
    _open: list[Phase] = field(default_factory=list)
    _since: float = 0.0

    @contextmanager
    def __call__(self, name: str, sizes: tuple[int, ...]) -> Iterator[None]:
        """See `trace.Watcher`."""
        if name not in PHASES:
            yield
            return
        phase = self.phases.setdefault(name, Phase(name, len(self._open)))
        phase.calls += 1
        if sizes:
            kept = self.sizes.get(name, [0] * len(sizes))
            self.sizes[name] = [a + b for a, b in zip(kept, sizes, strict=True)]
        self._charge()
        self._open.append(phase)
        try:
            yield
        finally:
            phase.rss_mb = self._charge()
            self._open.pop()

    def _charge(self) -> float | None:
        """Charge the time since the last border to the innermost phase, the peak since then to all that are open."""
        if self._open:
            self._open[-1].seconds += time.perf_counter() - self._since
        now, peak = _resident_mb()
        if peak is not None:
            for phase in self._open:
                phase.peak_mb = max(phase.peak_mb or 0.0, peak)
        self._since = time.perf_counter()
        return now

    @property
    def total(self) -> float:
        """Seconds of all steps."""
        return sum(phase.seconds for phase in self.phases.values())

    def per_step(self, steps: int) -> list[Phase]:
        """The phases in the order of their first begin; `step` itself is what no other phase took."""
        return [
            replace(phase, calls=phase.calls / steps, seconds=phase.seconds / steps, share=phase.seconds / self.total)
            for phase in self.phases.values()
        ]


def _resident_mb() -> tuple[float | None, float | None]:
    """Resident memory now and its highest since the last call, in MiB; None where Linux's /proc does not say."""
    try:
        text = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # proc(5): resets the high-water mark
    except OSError:
        return None, None
    found = dict(line.partition(":")[::2] for line in text.splitlines())
    now, peak = (int(found[key].split()[0]) / 1024 if key in found else None for key in ("VmRSS", "VmHWM"))
    return now, peak


# --- operations --------------------------------------------------------------------------------------------------


def _record(name: str, sizes: tuple[int, ...]) -> record_function:
    return record_function(event_name(name, sizes))


def _matrices(run: GRPO) -> dict[tuple[int, int], str]:
    """[outputs, inputs] of the model's matrices to their names; equal shapes share a name."""
    names: dict[tuple[int, int], list[str]] = {}
    for name, parameter in run.model.named_parameters():
        if parameter.ndim == 2:
            short = name.removesuffix(".weight").rpartition(".")[2]
            if short == "embedding" and isinstance(run.model, Decoder) and run.model.config.tie_word_embeddings:
                short = "head"
            listed = names.setdefault((parameter.shape[0], parameter.shape[1]), [])
            if short not in listed:
                listed.append(short)
    return {shape: "/".join(listed) for shape, listed in names.items()}


def _training_share(run: GRPO, clock: PhaseClock, steps: int, rate: float) -> TrainingShare | None:
    inputs, targets = clock.sizes.get("forward", [0, 0])
    if not inputs or not isinstance(run.model, Decoder):
        return None
    config = run.model.config
    head = config.vocab_size * config.hidden_size
    blocks = sum(p.numel() for name, p in run.model.named_parameters() if name.startswith("layers.") and p.ndim == 2)
    gflop = 0.0
    for phase, factor in (("forward", 6), ("reference", 2), ("old log-probabilities", 2)):
        tokens = clock.sizes.get(phase, [0, 0])
        gflop += factor * (blocks * tokens[0] + head * tokens[1]) / 1e9
    names = ("old log-probabilities", "training", "packing", "reference", "forward", "backward", "optimizer")
    seconds = sum(clock.phases[name].seconds for name in names if name in clock.phases)
    return TrainingShare(
        gflop / steps, seconds / steps, gflop / seconds, gflop / seconds / rate, inputs / steps, targets / steps
    )
