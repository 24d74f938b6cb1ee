"""An estimate as text, for `rethink train --dry-run`."""

from __future__ import annotations

from rethink.recipe.estimate import GIB, Estimate, Memory, Phase


def estimate_text(estimate: Estimate) -> str:
    """A few lines that say what a run will cost and what was assumed."""
    parameters = estimate.parameters
    visited = f"{_count(parameters.block)} in the layers a token visits, {_count(parameters.head)} in the head"
    assumed = " (assumed)" if estimate.prompt_tokens_assumed else ""
    rows = [
        ("Parameters", f"{_count(parameters.total)}: {visited}"),
        ("Prompts", f"about {estimate.prompt_tokens} tokens each{assumed}, computed once per group"),
        *(_phase(phase, estimate.steps_per_batch) for phase in estimate.phases),
        (
            "Evaluation",
            f"{estimate.evaluations} times, at most {_count(estimate.evaluation_tokens)} completion tokens in all"
            f"{_seconds(estimate.evaluation_seconds)}",
        ),
        ("Memory", _memory(estimate.memory)),
        ("Whole run", f"at most {_count(estimate.total_tokens)} tokens{_seconds(estimate.total_seconds)}"),
    ]
    lines = [f"{label:<18} {text}" for label, text in rows]
    if estimate.total_seconds is None:
        lines.append("No time is given: the machine's rate has not been measured (`rethink doctor` measures it).")
    return "\n".join(lines)


def _memory(memory: Memory) -> str:
    return (
        f"{_gib(memory.least)} to {_gib(memory.most)}, as the run finds room: master weights and optimizer "
        f"{_gib(memory.master_and_optimizer)}, compute weights {_gib(memory.compute_weights)}, reference "
        f"{_gib(memory.reference_weights)}, logits {_gib(memory.logits)}, keys and values "
        f"{_gib(memory.keys_and_values_least)} (one sequence) to {_gib(memory.keys_and_values_most)}, activations "
        f"{_gib(memory.activations_least)} (one sequence) to {_gib(memory.activations_most)}"
    )


def _phase(phase: Phase, steps_per_batch: int) -> tuple[str, str]:
    last = phase.first_step + phase.steps
    shared = "" if steps_per_batch == 1 else f" for {steps_per_batch} steps"
    training = phase.training_flops + phase.attention_flops_training
    decoding = phase.decoding_flops + phase.attention_flops_decoding
    return (
        f"Steps {phase.first_step + 1}-{last}",
        f"{_count(phase.prompt_tokens_batch)} prompt and {_count(phase.completion_tokens_batch)} completion tokens a "
        f"rollout batch{shared} ({phase.completion_tokens} each, limit {phase.max_new_tokens}); {_flops(decoding)} to "
        f"decode, {_flops(training)} to train{_seconds(phase.seconds_per_step, ' a step')}",
    )


def _count(number: float) -> str:
    for size, word in [(1e12, "trillion"), (1e9, "billion"), (1e6, "million")]:
        if number >= size:
            return f"{number / size:.3g} {word}"
    return f"{number:,.0f}"


def _flops(number: float) -> str:
    for size, prefix in [(1e24, "Y"), (1e21, "Z"), (1e18, "E"), (1e15, "P"), (1e12, "T")]:
        if number >= size:
            return f"{number / size:.3g} {prefix}FLOP"
    return f"{number / 1e9:.3g} GFLOP"


def _gib(size: int) -> str:
    return f"{size / GIB:,.1f} GiB"


def _seconds(seconds: float | None, after: str = "") -> str:
    if seconds is None:
        return ""
    for size, unit in [(365.25 * 86400, "years"), (86400.0, "days"), (3600.0, "hours"), (60.0, "minutes")]:
        if seconds >= 2 * size:
            return f", about {seconds / size:,.1f} {unit}{after}"
    return f", about {seconds:.1f} seconds{after}"
