"""Estimates as text, for `rethink train --dry-run`."""

from __future__ import annotations

from collections.abc import Sequence

from rethink.plan.estimate import GIB, Estimate, Memory, Parameters, Phase


def estimate_text(estimate: Estimate) -> str:
    """A few lines that say what a run will cost and what was assumed."""
    assumed = " (assumed)" if estimate.prompt_tokens_assumed else ""
    rows = [
        ("Parameters", parameters_text(estimate.parameters)),
        ("Prompts", f"about {estimate.prompt_tokens} tokens each{assumed}, computed once per group"),
        *(_phase_text(phase, estimate.steps_per_batch) for phase in estimate.phases),
        *_rounds_text(estimate),
        (
            "Evaluation",
            f"{estimate.evaluations} times, at most {count_text(estimate.evaluation_tokens)} completion tokens in all"
            f"{seconds_text(estimate.evaluation_seconds)}",
        ),
        ("Memory", memory_text(estimate.memory)),
        ("Whole run", f"at most {count_text(estimate.total_tokens)} tokens{seconds_text(estimate.total_seconds)}"),
    ]
    return rows_text(rows, timed=estimate.total_seconds is not None)


def rows_text(rows: Sequence[tuple[str, str]], *, timed: bool) -> str:
    """Labelled rows; a last line says why where no time is given."""
    lines = [f"{label:<18} {text}" for label, text in rows]
    if not timed:
        lines.append("No time is given: the machine's rate has not been measured (`rethink doctor` measures it).")
    return "\n".join(lines)


def parameters_text(parameters: Parameters) -> str:
    """All of them, and those that a token visits."""
    visited = f"{count_text(parameters.block)} in the layers a token visits, {count_text(parameters.head)} in the head"
    return f"{count_text(parameters.total)}: {visited}"


def memory_text(memory: Memory) -> str:
    """Least and most, and what holds it; keys and values only where something is sampled."""
    sampling = (
        f"reference {_gib(memory.reference_weights)}, logits {_gib(memory.logits)}, keys and values "
        f"{_gib(memory.keys_and_values_least)} (one sequence) to {_gib(memory.keys_and_values_most)}"
        if memory.keys_and_values_most
        else f"logits {_gib(memory.logits)}"
        if memory.logits
        else "no logits"
    )
    earlier = f"earlier versions {_gib(memory.earlier_weights)}, " if memory.earlier_weights else ""
    earlier += f"the engine's copy {_gib(memory.engine_weights)}, " if memory.engine_weights else ""
    earlier += f"the critic with its optimizer {_gib(memory.critic)}, " if memory.critic else ""
    return (
        f"{_gib(memory.least)} to {_gib(memory.most)}, as the run finds room: master weights and optimizer "
        f"{_gib(memory.master_and_optimizer)}, compute weights {_gib(memory.compute_weights)}, {earlier}{sampling}, "
        f"activations {_gib(memory.activations_least)} (one sequence) to {_gib(memory.activations_most)}"
    )


def _phase_text(phase: Phase, steps_per_batch: int) -> tuple[str, str]:
    last = phase.first_step + phase.steps
    shared = "" if steps_per_batch == 1 else f" for {steps_per_batch} steps"
    training = phase.training_flops + phase.attention_flops_training
    decoding = phase.decoding_flops + phase.attention_flops_decoding
    return (
        f"Steps {phase.first_step + 1}-{last}",
        f"{count_text(phase.prompt_tokens_batch)} prompt and {count_text(phase.completion_tokens_batch)} completion "
        f"tokens a rollout batch{shared} ({phase.completion_tokens} each, limit {phase.max_new_tokens}); "
        f"{flops_text(decoding)} to decode, {flops_text(training)} to train"
        f"{seconds_text(phase.seconds_per_step, ' a step')}"
        f"{seconds_text(phase.seconds_overlapped, ' with --cluster, where sampling overlaps training')}",
    )


def _rounds_text(estimate: Estimate) -> list[tuple[str, str]]:
    if estimate.most_rounds == 1:
        return []
    seconds = seconds_text(estimate.total_seconds_most, " for the whole run")
    return [
        (
            "Dynamic sampling",
            f"up to {estimate.most_rounds:g} times the rollouts of a batch, as groups have no signal; all else here "
            f"counts them once. At most {count_text(estimate.generated_tokens)} completion tokens sampled{seconds}",
        )
    ]


def count_text(number: float) -> str:
    """A number, in words where it is large."""
    for size, word in [(1e12, "trillion"), (1e9, "billion"), (1e6, "million")]:
        if number >= size:
            return f"{number / size:.3g} {word}"
    return f"{number:,.0f}"


def flops_text(number: float) -> str:
    """Operations with a prefix."""
    for size, prefix in [(1e24, "Y"), (1e21, "Z"), (1e18, "E"), (1e15, "P"), (1e12, "T")]:
        if number >= size:
            return f"{number / size:.3g} {prefix}FLOP"
    return f"{number / 1e9:.3g} GFLOP"


def _gib(size: int) -> str:
    return f"{size / GIB:,.1f} GiB"


def seconds_text(seconds: float | None, after: str = "") -> str:
    """`, about …` in a unit that suits; nothing for None."""
    if seconds is None:
        return ""
    for size, unit in [(365.25 * 86400, "years"), (86400.0, "days"), (3600.0, "hours"), (60.0, "minutes")]:
        if seconds >= 2 * size:
            return f", about {seconds / size:,.1f} {unit}{after}"
    return f", about {seconds:.1f} seconds{after}"


def size_text(count: float) -> str:
    """Bytes as text: `1.6 GB`."""
    for unit, factor in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if count >= factor:
            return f"{count / factor:.1f} {unit}"
    return f"{count / 1e3:.0f} kB"
