"""GRPO in one file: DeepSeek-R1-Zero's algorithm from problem to update, on Rethink's building blocks.

    python examples/minimal_grpo.py                          # SmolLM2-135M on two-term sums
    python examples/minimal_grpo.py --model FOLDER --steps 50 --beta 0.001

`rethink train` adds what a long run needs: held-out evaluation, checkpoints and exact resume, a report, curricula,
mini-batches. The arithmetic is the same: a test compares the losses of this file with the trainer's.

Axes: P prompts of a batch, G completions of each, C tokens of all completions, packed one after another.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rethink.kinds.grpo.recipe import Recipe
from rethink.machine.placement import Placement
from rethink.model.decoder.packing import PackedGroup, pack
from rethink.model.language_model import LanguageModel
from rethink.model.text.prompt import PromptRenderer
from rethink.recipe.recipe_files import parse_recipe
from rethink.rewards.rubric import Rubric, build_rubric
from rethink.rollout.engine import RolloutEngine
from rethink.rollout.engines import EngineFactory, open_engine
from rethink.runs.optimizer import MasterAdamW
from rethink.tasks.mix import TaskMix, build_task_mix
from rethink.types import Completion, GenerationRequest, Problem, Prompt, SamplingParams

RECIPE = """
name: minimal
steps: 20
prompt:
  prefill: "<think>"
  examples:
    - question: "State the final answer to the following arithmetic problem: 4 + 3 ="
      completion: "<think>4 plus 3 is 7.</think>\\n<answer>7</answer>"
tasks:
  - {kind: reasoning-gym, name: chain_sum, params: {min_terms: 2, max_terms: 2, min_digits: 1, max_digits: 1}}
rollout: {prompts_per_batch: 8, group_size: 8, max_new_tokens: 96}
optimizer: {learning_rate: 1.0e-5}
"""
STD_EPSILON = 1e-6


@dataclass
class Parts:
    """What a step works with."""

    recipe: Recipe
    model: LanguageModel
    reference: LanguageModel | None
    engine: RolloutEngine
    mix: TaskMix
    renderer: PromptRenderer
    rubric: Rubric
    optimizer: MasterAdamW
    stop_token_ids: tuple[int, ...]


@dataclass
class Batch:
    """P groups: a prompt and its G completions, each with a reward and an advantage."""

    prompts: list[Prompt]
    completions: list[list[Completion]]
    rewards_PG: Tensor
    advantages_PG: Tensor


# --- one step -----------------------------------------------------------------------------------------------------


def grpo_step(parts: Parts, step: int) -> dict[str, float]:
    """Sample, score, compare within each group, and take one optimizer update."""
    batch = sample_batch(parts, step)
    loss = backward(parts, batch)
    norm = parts.optimizer.step(parts.recipe.optimizer.learning_rate)
    parts.engine.publish(parts.model, step + 1)
    lengths = [len(c.token_ids) for group in batch.completions for c in group]
    return {
        "reward": float(batch.rewards_PG.mean()),
        "loss": loss,
        "grad_norm": norm,
        "length": statistics.fmean(lengths),
    }


def sample_batch(parts: Parts, step: int) -> Batch:
    """Old policy: G completions of each of P prompts, and their rule-based rewards."""
    recipe = parts.recipe
    problems = parts.mix.train_batch(step, recipe.rollout.prompts_per_batch, step)
    prompts = [parts.renderer.render(problem) for problem in problems]
    params = SamplingParams(
        recipe.rollout.temperature,
        max_new_tokens=recipe.rollout.max_new_tokens_at(step),
        stop_token_ids=parts.stop_token_ids,
    )
    size = recipe.rollout.group_size
    first = 1_000_000 * (recipe.seed + 1) + step * len(prompts) * size
    requests = [
        GenerationRequest(prompt.token_ids, tuple(range(first + p * size, first + (p + 1) * size)), params)
        for p, prompt in enumerate(prompts)
    ]
    completions = parts.engine.generate(requests)
    rewards_PG = torch.tensor(
        [
            [reward(parts.rubric, *triple) for triple in zip([problem] * size, [prompt] * size, group, strict=True)]
            for problem, prompt, group in zip(problems, prompts, completions, strict=True)
        ],
        dtype=torch.float64,
    )
    return Batch(prompts, completions, rewards_PG, group_advantages(rewards_PG))


def reward(rubric: Rubric, problem: Problem, prompt: Prompt, completion: Completion) -> float:
    """The weighted sum of accuracy and format; 0 where nothing could be judged."""
    _, total = rubric.score(problem, prompt, completion)
    return total or 0.0


def group_advantages(rewards_PG: Tensor) -> Tensor:
    """How much better than its group a completion did (DeepSeek-R1, equation 3)."""
    mean_P1 = rewards_PG.mean(dim=1, keepdim=True)
    return (rewards_PG - mean_P1) / (rewards_PG.std(dim=1, keepdim=True) + STD_EPSILON)


# --- the loss -----------------------------------------------------------------------------------------------------


def backward(parts: Parts, batch: Batch) -> float:
    """Gradients of the loss over the batch, group by group; the prompt of a group is computed once.

    With one update a batch the policy that sampled is the one that learns, so the old log-probabilities are the
    current ones: the ratio is 1, and its gradient is that of the log-probability.
    """
    recipe, total = parts.recipe, 0.0
    everyone = batch.rewards_PG.numel()
    for prompt, group, advantages_G in zip(batch.prompts, batch.completions, batch.advantages_PG, strict=True):
        packed = pack([PackedGroup(prompt.token_ids, [c.token_ids.tolist() for c in group])], parts.model.device)
        lengths_G = torch.tensor(packed.lengths)
        advantages_C = advantages_G.float().repeat_interleave(lengths_G)
        # The paper's 1/G: the mean within a completion, then over completions.
        weights_C = (1.0 / (lengths_G * everyone)).repeat_interleave(lengths_G)
        reference_C = None
        if parts.reference is not None:
            reference_C, _ = parts.reference.completion_logprobs(packed, recipe.rollout.temperature)
        objective = token_objective(recipe, advantages_C, weights_C, reference_C)
        loss, _, _ = parts.model.completion_loss(packed, objective, recipe.rollout.temperature)
        loss.backward()
        total += float(loss.detach())
    return total


def token_objective(
    recipe: Recipe, advantages_C: Tensor, weights_C: Tensor, reference_C: Tensor | None
) -> Callable[[Tensor, slice], Tensor]:
    """The function of log-probabilities that is minimised; the model calls it for one chunk of tokens at a time."""
    algorithm = recipe.algorithm

    def objective(logprobs: Tensor, part: slice) -> Tensor:
        advantages = advantages_C[part]
        ratio = (logprobs - logprobs.detach()).exp()
        clipped = ratio.clamp(1 - algorithm.clip_low, 1 + algorithm.clip_high)
        losses = -torch.minimum(ratio * advantages, clipped * advantages)
        if reference_C is not None:
            # k3, unbiased and never negative (DeepSeekMath, equation 4).
            gap = reference_C[part] - logprobs
            losses = losses + algorithm.beta * (gap.exp() - gap - 1)
        return (weights_C[part] * losses).sum()

    return objective


# --- setting up ---------------------------------------------------------------------------------------------------


def assemble(recipe: Recipe, engine: EngineFactory | None = None) -> Parts:
    """Load the model and build what the recipe names; `engine` replaces the one that takes the model."""
    placement = Placement(recipe.threads, "cpu", recipe.model.dtype, kv_budget_bytes=2 << 30)
    opened = open_engine(recipe.model.path, placement, engine=engine or recipe.rollout.engine)
    checkpoint, model, chosen = opened.checkpoint, opened.model, opened.engine
    mix = build_task_mix(recipe.tasks, recipe.reward, recipe.seed, steps=recipe.steps)
    return Parts(
        recipe=recipe,
        model=model,
        reference=model.clone() if recipe.algorithm.beta > 0 else None,
        engine=chosen,
        mix=mix,
        renderer=PromptRenderer(
            checkpoint.tokenizer, recipe.prompt, chosen.context - recipe.rollout.max_new_tokens_at(0)
        ),
        rubric=build_rubric(recipe.reward, mix.judges(), mix.rewarded()),
        optimizer=MasterAdamW(model, recipe.optimizer),
        stop_token_ids=tuple(sorted(checkpoint.tokenizer.end_of_turn_ids)),
    )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="embedded", help="embedded, a hub id, a folder or a GGUF file")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--beta", type=float, default=0.0, help="weight of the KL to the untrained model")
    parser.add_argument("--seed", type=int, default=0)
    a = parser.parse_args(arguments)
    overrides = [f"model.path={a.model}", f"steps={a.steps}", f"algorithm.beta={a.beta}", f"seed={a.seed}"]
    parts = assemble(parse_recipe(RECIPE, "the recipe of minimal_grpo.py", overrides))
    for step in range(a.steps):
        row = grpo_step(parts, step)
        print(f"step {step + 1:3}  " + "  ".join(f"{name} {value:.3g}" for name, value in row.items()), flush=True)


if __name__ == "__main__":
    main()
