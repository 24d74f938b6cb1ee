"""Makes tests/data/conformance: small vectors of our own, for checkouts without the reference data beside them.

    python tests/data/make_conformance.py

Numbers are computed here from the papers' equations in plain Python, one number at a time; nothing of the package is
imported. Texts and what is expected of them are written by hand. The rows have the form of the reference data.
"""

import json
import math
from itertools import combinations
from pathlib import Path

LOGP, OLD, GEN, REF = (
    [-0.3, -2.0, -0.7, -1.1],
    [-0.5, -1.5, -0.7, -1.6],
    [-0.4, -1.2, -1.0, -1.6],
    [-1.0, -1.8, 0.0, -2.0],
)
ADV = [1.5, -0.5, -2.0, 0.75]
EPS = {"eps_low": 0.2, "eps_high": 0.3}


def mean(values):
    return math.fsum(values) / len(values)


def clipped(ratios, advantages):
    """Minus the smaller of both products (Schulman et al., 2017, equation 7)."""
    inside = [min(max(r, 1 - EPS["eps_low"]), 1 + EPS["eps_high"]) for r in ratios]
    return [-min(r * a, i * a) for r, i, a in zip(ratios, inside, advantages, strict=True)]


def numerics():
    ratio = [math.exp(x - y) for x, y in zip(LOGP, OLD, strict=True)]
    loss = clipped(ratio, ADV)
    inputs = {"logp": LOGP, "old_logp": OLD, "adv": ADV}
    yield (
        "reinforce",
        {},
        {"logp": LOGP, "adv": ADV},
        {
            "per_token_loss": [-x * a for x, a in zip(LOGP, ADV, strict=True)],
            "loss": mean([-x * a for x, a in zip(LOGP, ADV, strict=True)]),
        },
    )
    yield "ppo", EPS, inputs, {"ratio": ratio, "per_token_loss": loss, "loss": mean(loss)}
    weight = [math.exp(x - y) for x, y in zip(OLD, GEN, strict=True)]
    weighted = [w * x for w, x in zip(weight, loss, strict=True)]
    apart = [r - x for x, r in zip(LOGP, REF, strict=True)]
    k3 = [math.exp(d) - d - 1 for d in apart]  # Schulman's k3, as in GRPO (arXiv 2402.03300, equation 4)
    yield "ppo", EPS, inputs | {"gen_logp": GEN, "ref_logp": REF}, {
        "is_weight": weight, "weighted": weighted, "loss": mean(weighted), "k3": k3,
    }  # fmt: skip
    yield "k2", {}, {"logp": LOGP, "ref_logp": REF}, {"kl": [d * d / 2 for d in apart]}
    together = math.exp(mean([x - y for x, y in zip(LOGP, OLD, strict=True)]))  # GSPO (arXiv 2507.18071, equation 7)
    loss = clipped([together] * 4, ADV)
    yield "gspo", EPS, inputs, {"ratio": [together] * 4, "per_token_loss": loss, "loss": mean(loss)}
    raw = [0.25, 1.0, 1.75, 4.0]
    yield "tis", {"tis_max": 1.5}, {"is_weight_raw": raw}, {"is_weight": [min(w, 1.5) for w in raw], "oob_ratio": 0.5}
    yield "no_tokens", {}, {"values": [1.0, 2.0], "mask": [0, 0]}, {"mean": 0.0}
    rewards = [1.0, 0.0, 0.5, 3.0]
    spread = math.sqrt(math.fsum((r - mean(rewards)) ** 2 for r in rewards) / 3)
    yield "group_std", {}, {"rewards": rewards}, {"adv": [(r - mean(rewards)) / spread for r in rewards]}
    others = [mean([r for j, r in enumerate(rewards) if j != i]) for i in range(4)]
    yield "leave_one_out", {}, {"groups": [0] * 4, "rewards": rewards}, {"baseline": others}
    ratio, signs = [2.0, 2.0, 0.5, 4.0], [2.0, -2.0, -1.0, -0.5]
    bounded = [min(x, 3.0 * -a) if a < 0 else x for x, a in zip(clipped(ratio, signs), signs, strict=True)]
    yield "dual_clip", EPS | {"clip_c": 3.0}, {"ratio": ratio, "adv": signs}, {"per_token_loss": bounded}
    inside = [min(max(r, 0.8), 1.3) for r in ratio]
    yield "cispo", EPS, {"ratio": ratio, "logp": LOGP, "adv": signs}, {
        "clamped": inside, "dloss_dlogp": [-i * a for i, a in zip(inside, signs, strict=True)],
    }  # fmt: skip


def metrics():
    """Counted, not computed: every choice of k of the n samples."""
    answers = ["Paris", "Rome", "Paris", "Rome", "Rome"]
    base = {"choices": ["Paris", "Rome"], "gold_index": 0, "responses": answers}
    for k in (1, 2, 3):
        chosen = [[answers[i] == "Paris" for i in picked] for picked in combinations(range(5), k)]
        yield "pass_at_k", {"k": k, "n": 5}, base, {f"pass@k:k={k}&n=5": mean([any(one) for one in chosen])}
        shares = {
            t: mean([sum(one) >= max(math.ceil(t * k), 1) for one in chosen]) for t in (0.0, 0.25, 0.5, 0.75, 1.0)
        }
        yield "g_pass_at_k", {"k": k, "n": 5}, base, {f"g-pass@{k}_{t}": share for t, share in shares.items()}
        yield "avg_at_k", {"k": k}, base, {f"avg@k:k={k}": mean([a == "Paris" for a in answers[:k]])}
        yield "maj_at_k", {"k": k}, base, {f"maj@k:k={k}": 1}  # Paris, a tie (Paris came first), Paris
    yield "maj_at_k", {"k": 5}, base, {"maj@k:k=5": 0}
    sums = {"choices": ["0.5"], "gold_index": 0, "responses": ["\\frac{1}{2}", "2", "1/2"]}
    yield "pass_at_k_math", {"k": 1, "n": 3}, sums, {"pass@k:k=1&n=3": 2 / 3}
    spans = {"choices": ["New York"], "gold_index": 0, "responses": ["New Delhi"]}
    yield "drop", {}, spans, {"em": 0.0, "f1": 0.5}


EXTRACTION = [
    ("last_boxed", r"\boxed{1}, no: \boxed{\frac{2}{3}}.", r"\frac{2}{3}"),
    ("last_boxed", "no box", None),
    ("gsm8k_hash", "3 + 4 = <<3+4=7>>7\n#### 1,007", "1007"),
    ("final_int", "first 12, then -30 in all", "-30"),
    ("final_candidate", r"So the area is \boxed{12\pi}.", r"12\pi"),
    ("final_candidate", "The answer is 42.", "42"),
    ("choice_letter", "The answer is (C).", "C"),
    ("choice_letter", "b", "B"),
    ("hendrycks_normalise", r"\tfrac{6}{8}", r"\frac{3}{4}"),
]
FORMAT = [
    ("think_then_text", "<think>a</think>b", 1.0),
    ("think_then_text", "a</think>b", 0.0),
    ("think_answer_tags", "<think>a</think><answer>b</answer>", 1.0),
    ("think_answer_tags", "<answer>b</answer><think>a</think>", 0.0),
    ("tag_count", "<think>a</think><answer>b", 0.75),
    ("code_format_python", "<think>a</think><answer>```python\nx = 1\n```</answer>", 1.0),
    ("code_format_python", "<think>a</think><answer>x = 1</answer>", 0.0),
    ("reasoning_steps", "First, a. Then nothing.", 1 / 3),
]
CHECKED = [
    ("core", r"\frac{1}{2}", "0.5", True),
    ("core", r"\frac{1}{2}", "0.6", False),
    ("core", "12", "21", False),
    ("core", r"(1, 2)", "(2, 1)", False),
    ("core", r"2\sqrt{3}", r"\sqrt{12}", True),
    ("core", "1,234", "1234", True),
    ("policy", "50", "50 dollars", True),
]
SOLVED = [
    ("18", "16 - 3 - 4 = 9 eggs, and 9 * 2 = 18 dollars.\nThe answer is 18.", True),
    ("18", "16 - 3 = 13, and 13 * 2 = 26.\nThe answer is 26.", False),
    ("1200", "She runs 400 m three times: #### 1,200", True),
]


def shaping():
    limits = {"max_completion_len": 100, "soft_punish_cache": 20}
    for length, expected in ((80, 0.0), (85, -0.25), (100, -1.0), (101, -1.0)):  # arXiv 2503.14476, equation 13
        yield "soft_overlong_punishment", limits, {"length": length}, expected
    yield "repetition_penalty_ids", {"ngram_size": 2, "max_penalty": -0.5}, {"completion_ids": [1, 2, 1, 2, 1]}, -0.25
    yield "repetition_penalty_words", {"ngram_size": 2, "max_penalty": -1.0}, {"text": "so so so"}, -0.5
    ends = {"min_value_wrong": -1.0, "max_value_wrong": -0.5, "min_value_correct": 0.5, "max_value_correct": 1.0}
    for length, correct, wrong in ((0, 1.0, -1.0), (50, 0.75, -0.75), (100, 0.5, -0.5)):
        yield "cosine_scaled", ends | {"max_len": 100}, {"correct": True, "length": length}, correct
        yield "cosine_scaled", ends | {"max_len": 100}, {"correct": False, "length": length}, wrong
    scale = {"source_min": -1.0, "source_max": 1.0, "target_min": 0.0, "target_max": 10.0}
    yield "linear_scale", scale, {"rewards": [-1.0, 0.0, 0.5]}, [0.0, 5.0, 7.5]
    buffer = {"overlong_buffer_length": 10, "overlong_buffer_penalty": 2.0, "max_response_length": 50}
    yield "dapo_overlong", buffer, {"lengths": [40, 45, 50], "rewards": [1.0, 1.0, 1.0]}, [1.0, 0.0, -1.0]


def files():
    keys = ("name", "params", "inputs", "expected")
    # The package adds a small number to a standard deviation before it divides by it.
    yield (
        "grpo_numerics",
        [dict(zip(keys, row, strict=True)) | {"tol": 1e-3 if row[0] == "group_std" else 1e-9} for row in numerics()],
    )
    yield "reward_shaping", [dict(zip(keys, row, strict=True)) | {"tol": 1e-9} for row in shaping()]
    yield (
        "eval_metrics",
        [
            {"metric": metric, "params": params, **given, "expected": expected, "tol": 1e-9}
            for metric, params, given, expected in metrics()
        ],
    )
    yield "extraction", [dict(zip(("kind", "text", "expected"), row, strict=True)) for row in EXTRACTION]
    yield "format_reward", [dict(zip(("style", "text", "expected"), row, strict=True)) for row in FORMAT]
    yield "answer_checker", [dict(zip(("scope", "gold", "pred", "match"), row, strict=True)) for row in CHECKED]
    yield (
        "gsm8k_gpt3_solutions_labelled",
        [dict(zip(("gold", "response", "match"), row, strict=True)) for row in SOLVED],
    )


if __name__ == "__main__":
    for name, rows in files():
        lines = [json.dumps({"id": f"own-{i}", **row}, ensure_ascii=False) for i, row in enumerate(rows)]
        file = Path(__file__).parent / "conformance" / f"{name}.jsonl"
        file.parent.mkdir(exist_ok=True)
        file.write_text("\n".join(lines) + "\n", "utf-8")
