"""Numbers as DeepSeek published them (arXiv 2501.12948, Tables 4-6): for reference columns, never mixed with ours.

Percentages; `rating` of Codeforces as it is. None: not given. Names of rows are the registry's where it has the
benchmark.
"""

from __future__ import annotations

from collections.abc import Mapping

SOURCE = "DeepSeek-R1: Incentivizing Reasoning Capability in LLMs via Reinforcement Learning, arXiv 2501.12948"

TABLE_4_MODELS = (
    "Claude-3.5-Sonnet-1022",
    "GPT-4o-0513",
    "DeepSeek-V3",
    "OpenAI-o1-mini",
    "OpenAI-o1-1217",
    "DeepSeek-R1",
)
# (block, label, registry's name or "", numbers in the order of TABLE_4_MODELS)
TABLE_4: tuple[tuple[str, str, str, tuple[float | None, ...]], ...] = (
    ("English", "MMLU (Pass@1)", "mmlu", (88.3, 87.2, 88.5, 85.2, 91.8, 90.8)),
    ("English", "MMLU-Redux (EM)", "mmlu-redux", (88.9, 88.0, 89.1, 86.7, None, 92.9)),
    ("English", "MMLU-Pro (EM)", "mmlu-pro", (78.0, 72.6, 75.9, 80.3, None, 84.0)),
    ("English", "DROP (3-shot F1)", "drop", (88.3, 83.7, 91.6, 83.9, 90.2, 92.2)),
    ("English", "IF-Eval (Prompt Strict)", "ifeval", (86.5, 84.3, 86.1, 84.8, None, 83.3)),
    ("English", "GPQA Diamond (Pass@1)", "gpqa-diamond", (65.0, 49.9, 59.1, 60.0, 75.7, 71.5)),
    ("English", "SimpleQA (Correct)", "simpleqa", (28.4, 38.2, 24.9, 7.0, 47.0, 30.1)),
    ("English", "FRAMES (Acc.)", "", (72.5, 80.5, 73.3, 76.9, None, 82.5)),
    ("English", "AlpacaEval2.0 (LC-winrate)", "", (52.0, 51.1, 70.0, 57.8, None, 87.6)),
    ("English", "ArenaHard (GPT-4-1106)", "", (85.2, 80.4, 85.5, 92.0, None, 92.3)),
    ("Code", "LiveCodeBench (Pass@1-COT)", "livecodebench", (38.9, 32.9, 36.2, 53.8, 63.4, 65.9)),
    ("Code", "Codeforces (Percentile)", "", (20.3, 23.6, 58.7, 93.4, 96.6, 96.3)),
    ("Code", "Codeforces (Rating)", "", (717, 759, 1134, 1820, 2061, 2029)),
    ("Code", "SWE Verified (Resolved)", "", (50.8, 38.8, 42.0, 41.6, 48.9, 49.2)),
    ("Code", "Aider-Polyglot (Acc.)", "", (45.3, 16.0, 49.6, 32.9, 61.7, 53.3)),
    ("Math", "AIME 2024 (Pass@1)", "aime24", (16.0, 9.3, 39.2, 63.6, 79.2, 79.8)),
    ("Math", "MATH-500 (Pass@1)", "math500", (78.3, 74.6, 90.2, 90.0, 96.4, 97.3)),
    ("Math", "CNMO 2024 (Pass@1)", "", (13.1, 10.8, 43.2, 67.6, None, 78.8)),
    ("Chinese", "CLUEWSC (EM)", "clue-wsc", (85.4, 87.9, 90.9, 89.9, None, 92.8)),
    ("Chinese", "C-Eval (EM)", "c-eval", (76.7, 76.0, 86.5, 68.9, None, 91.8)),
    ("Chinese", "C-SimpleQA (Correct)", "", (55.4, 58.7, 68.0, 40.3, None, 63.7)),
)

# model -> AIME 2024 pass@1 and cons@64, MATH-500, GPQA Diamond, LiveCodeBench, Codeforces rating
TABLE_5: Mapping[str, tuple[float | None, ...]] = {
    "GPT-4o-0513": (9.3, 13.4, 74.6, 49.9, 32.9, 759),
    "Claude-3.5-Sonnet-1022": (16.0, 26.7, 78.3, 65.0, 38.9, 717),
    "OpenAI-o1-mini": (63.6, 80.0, 90.0, 60.0, 53.8, 1820),
    "QwQ-32B-Preview": (50.0, 60.0, 90.6, 54.5, 41.9, 1316),
    "DeepSeek-R1-Distill-Qwen-1.5B": (28.9, 52.7, 83.9, 33.8, 16.9, 954),
    "DeepSeek-R1-Distill-Qwen-7B": (55.5, 83.3, 92.8, 49.1, 37.6, 1189),
    "DeepSeek-R1-Distill-Qwen-14B": (69.7, 80.0, 93.9, 59.1, 53.1, 1481),
    "DeepSeek-R1-Distill-Qwen-32B": (72.6, 83.3, 94.3, 62.1, 57.2, 1691),
    "DeepSeek-R1-Distill-Llama-8B": (50.4, 80.0, 89.1, 49.0, 39.6, 1205),
    "DeepSeek-R1-Distill-Llama-70B": (70.0, 86.7, 94.5, 65.2, 57.5, 1633),
}
TABLE_6: Mapping[str, tuple[float | None, ...]] = {
    "QwQ-32B-Preview": (50.0, 60.0, 90.6, 54.5, 41.9),
    "DeepSeek-R1-Zero-Qwen-32B": (47.0, 60.0, 91.6, 55.0, 40.2),
    "DeepSeek-R1-Distill-Qwen-32B": (72.6, 83.3, 94.3, 62.1, 57.2),
}
