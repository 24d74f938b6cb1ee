"""What runs emit is what the glossary documents, and the other way round; charts show documented metrics alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from rethink.cli.main import main
from rethink.observe.glossary import GLOSSARY, describe
from rethink.observe.report.panels import panels
from rethink.recipe.kind import kinds
from rethink.store.run_folder import RunFolder

RECIPES = {
    "grpo": """\
tasks: [{{kind: jsonl, name: {folder}/sums.jsonl, difficulty: {{}}}}]
prompt: {{template: raw, instruction: "{{question}}"}}
rollout: {{prompts_per_batch: 2, group_size: 2, max_new_tokens: 4, kv_budget_gb: 0.1, lag: 1,
  dynamic_sampling: {{when_short: fill}}}}
reward: {{max_failure_share: 1.0, parts: [{{name: accuracy}}, {{name: format}},
  {{name: broken, function: "broken_reward:broken"}}]}}
algorithm: {{beta: 0.1, correction: tis}}
steps: 2
evaluation: {{problems: 2}}
""",
    "grpo with a critic": """\
tasks: [{{kind: jsonl, name: {folder}/sums.jsonl}}]
prompt: {{template: raw, instruction: "{{question}}"}}
rollout: {{prompts_per_batch: 2, group_size: 2, max_new_tokens: 4, kv_budget_gb: 0.1}}
reward: {{parts: [{{name: accuracy}}, {{name: length, function: "length_reward:odd"}}]}}
algorithm: {{type: ppo, mini_batches: 2, off_policy_mask: 0.1}}
critic: {{mini_batches: 2}}
steps: 2
evaluation: {{problems: 0}}
""",
    "grpo with chosen tokens": """\
tasks: [{{kind: jsonl, name: {folder}/sums.jsonl}}]
prompt: {{template: raw, instruction: "{{question}}"}}
rollout: {{prompts_per_batch: 2, group_size: 2, max_new_tokens: 4, kv_budget_gb: 0.1}}
reward: {{parts: [{{name: accuracy}}, {{name: length, function: "length_reward:odd"}}]}}
algorithm: {{top_entropy: 0.5, beta: 0.1, kl_target: 0.1}}
steps: 1
evaluation: {{problems: 0}}
""",
    "grpo with a trust region": """\
tasks: [{{kind: jsonl, name: {folder}/sums.jsonl}}]
prompt: {{template: raw, instruction: "{{question}}"}}
rollout: {{prompts_per_batch: 2, group_size: 2, max_new_tokens: 4, kv_budget_gb: 0.1}}
reward: {{parts: [{{name: length, function: "length_reward:odd"}}]}}
algorithm: {{type: trpo}}
steps: 1
evaluation: {{problems: 0}}
""",
    "sft": """\
data: [{{path: {folder}/rows.jsonl}}]
steps: 2
batch_sequences: 2
evaluation: {{share: 0.3}}
""",
    "reward-model": """\
data: [{{path: {folder}/pairs.jsonl}}]
steps: 2
batch_size: 2
evaluation: {{share: 0.3}}
""",
    "preference": """\
algorithm: {{type: kto}}
data: [{{path: {folder}/pairs.jsonl}}]
steps: 2
batch_size: 8
evaluation: {{share: 0.3}}
""",
    "samples": """\
problems: 2
tasks: [{{kind: jsonl, name: {folder}/sums.jsonl}}]
prompt: {{template: raw, instruction: "{{question}}"}}
sampling: {{per_problem: 2, max_new_tokens: 4}}
filters: {{correct: null, format: null, language: null, tags: false, truncated: false, repetition: null,
  duplicate: null}}
""",
}
WITHOUT_ROWS = {"eval"} | {kind.name for kind in kinds().values() if kind.stages}
"""An evaluation has no steps, and the others are made of runs of the kinds above."""
PATTERNS = {"reward/<part>": "reward/accuracy", "failure/<cause>": "failure/exception"}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    rows = {
        "rows": [{"prompt": f"{i} + 1?", "completion": str(i + 1)} for i in range(12)],
        "pairs": [{"prompt": f"{i} + 1?", "chosen": str(i + 1), "rejected": "no"} for i in range(12)],
        "sums": [{"question": f"{i} + 1?", "answer": str(i + 1)} for i in range(12)],
    }
    for name, entries in rows.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    (tmp_path / "broken_reward.py").write_text("def broken(problem, text):\n    raise ValueError\n")
    (tmp_path / "length_reward.py").write_text("def odd(problem, text):\n    return float(len(text) % 2)\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def test_what_is_emitted_is_what_is_documented(folder: Path, tiny_folder: Callable[..., Path]) -> None:
    model, emitted = tiny_folder("llama"), set()
    assert {name.split()[0] for name in RECIPES} | WITHOUT_ROWS == set(kinds())
    for name, text in RECIPES.items():
        kind, path, out = name.split()[0], folder / f"{name}.yaml", folder / f"run-{name}"
        shared = f"name: tiny\nkind: {kind}\nthreads: 1\nmodel: {{path: {model}, dtype: float32}}\n"
        trains = "checkpoint: {every: 1}\n" if kinds()[kind].trains else ""
        path.write_text(shared + text.format(folder=folder) + trains)
        assert main(["train", str(path), "--out", str(out), "--plain"]) == 0
        emitted |= {metric for row in RunFolder.open(out).metrics() for metric in row}
    for metric in emitted:
        describe(metric)
    # These need workers, ranks (tests/distributed) or vLLM (tests/kinds/grpo/test_vllm.py).
    one_process = {name for name in GLOSSARY if not name.startswith("cluster/")} - {"time/exchange", "time/sync"}
    assert {PATTERNS.get(name, name) for name in one_process} - emitted == set()


def test_charts_show_documented_metrics_alone() -> None:
    for kind in kinds():
        shown = panels({"recipe": {"kind": kind}, "metrics": [], "evaluations": []})
        for name in {name for panel in shown for name in panel.metrics}:
            describe(name)
