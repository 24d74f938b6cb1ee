"""A pipeline of real stages of every kind on a tiny model, in seconds."""

from __future__ import annotations

import json
from pathlib import Path

RECIPE = """\
name: tiny
kind: pipeline
threads: 1
vars:
  base: {model}
  tasks:
    - {{kind: jsonl, name: {problems}}}
  prompt: {{template: raw, instruction: "{{question}}"}}
  rollout: {{prompts_per_batch: 4, group_size: 3, max_new_tokens: 6, kv_budget_gb: 0.1}}
  reward:
    parts: [{{name: accuracy}}, {{name: repetition, params: {{unit: tokens, ngram_size: 1}}}}]
    answer: last-number
  optimizer: {{learning_rate: 1.0e-3, micro_batch_tokens: 256}}
stages:
  zero:
    kind: grpo
    recipe:
      model: {{path: "${{vars.base}}", dtype: float32}}
      prompt: ${{vars.prompt}}
      tasks: ${{vars.tasks}}
      steps: 3
      rollout: ${{vars.rollout}}
      reward: ${{vars.reward}}
      optimizer: ${{vars.optimizer}}
      evaluation: {{problems: 0}}
      checkpoint: {{every: 1}}
  drawn:
    kind: samples
    recipe:
      model: {{path: "${{zero.model}}", dtype: float32}}
      prompt: ${{vars.prompt}}
      tasks: ${{vars.tasks}}
      problems: 6
      sampling: {{per_problem: 2, prompts_per_batch: 2, max_new_tokens: 6, kv_budget_gb: 0.1}}
      reward: ${{vars.reward}}
      filters:
        {{correct: null, format: null, language: null, truncated: false, tags: false, code: false, repetition: null,
         duplicate: null}}
  tuned:
    kind: sft
    recipe:
      model: {{path: "${{zero.model}}", dtype: float32}}
      prompt: {{template: chat}}
      data: [{{path: {rows}}}, {{path: "${{drawn.train}}"}}]
      steps: 3
      batch_sequences: 2
      optimizer: {{learning_rate: 1.0e-3, final_rate: 1.0e-4, micro_batch_tokens: 256}}
      checkpoint: {{every: 1}}
  judge:
    kind: reward-model
    recipe:
      model: {{path: "${{tuned.model}}", dtype: float32}}
      template: plain
      "on": response
      data: [{{path: {pairs}}}]
      steps: 2
      batch_size: 4
      evaluation: {{share: 0}}
      optimizer: {{learning_rate: 1.0e-3, micro_batch_tokens: 256}}
      checkpoint: {{every: 1}}
  last:
    kind: grpo
    recipe:
      model: {{path: "${{tuned.model}}", dtype: float32}}
      prompt: ${{vars.prompt}}
      tasks: ${{vars.tasks}}
      steps: 4
      rollout: ${{vars.rollout}}
      reward: ${{vars.reward}}
      algorithm: {{beta: 0.02, reference_every: 2, mini_batches: 2}}
      optimizer: ${{vars.optimizer}}
      evaluation: {{problems: 0}}
      checkpoint: {{every: 1}}
evaluation:
  model: {{dtype: float32}}
  prompt: ${{vars.prompt}}
  tasks: ${{vars.tasks}}
  reward: ${{vars.reward}}
  problems: 8
  max_new_tokens: 6
  kv_budget_gb: 0.1
"""


def write_recipe(folder: Path, model: Path) -> Path:
    """The recipe and its data in `folder`; returns the recipe's path."""

    def lines(name: str, rows: list[dict[str, str]]) -> Path:
        path = folder / name
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path

    sums = [(i, j) for i in range(8) for j in range(8)]
    path = folder / "tiny.yaml"
    path.write_text(
        RECIPE.format(
            model=model,
            problems=lines("problems.jsonl", [{"question": f"{i} + {j} =", "answer": f"{i + j}"} for i, j in sums]),
            rows=lines("rows.jsonl", [{"prompt": f"{i} + {i} =", "completion": f" {2 * i}"} for i in range(8)]),
            pairs=lines("pairs.jsonl", [{"prompt": f"{i}?", "chosen": f"{i}.", "rejected": "no"} for i in range(8)]),
        )
    )
    return path
