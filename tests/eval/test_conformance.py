"""pass@k, avg@k, maj@k, G-pass@k, DROP and extractive match against cases from other systems' test suites."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest

from rethink.eval.grading.drop import drop_scores
from rethink.eval.grading.graders import math_equivalent
from rethink.eval.statistics.estimates import _at_least, majority, mean_g_pass_at_k, pass_at_k
from tests.paths import vector_params, vectors

REASONS = {
    "g_pass_at_k_math-2": "two of its four answers are the gold letter for letter (x^2/2), and it expects 0 for every "
    "threshold: its library's number extraction reads nothing from the gold",
}


def right_answers(row: dict[str, Any]) -> tuple[list[bool], Callable[[str, str], bool]]:
    """Which responses are right, by the comparison that the metric's name asks for."""
    metric, golds = row["metric"], row["gold_index"]
    golds = golds if isinstance(golds, list) else [golds]
    equal: Callable[[str, str], bool] = lambda a, b: a.strip() == b.strip()  # noqa: E731
    wanted = [row["choices"][i] for i in golds]
    if metric.endswith("letters"):
        wanted = [chr(ord("A") + i) for i in golds]  # the index of the right choice is its letter
    elif metric.endswith(("math", "latex")):
        equal = math_equivalent
    return [any(equal(response, gold) for gold in wanted) for response in row["responses"]], equal


def computed(row: dict[str, Any]) -> dict[str, float]:
    right, equal = right_answers(row)
    metric, params = row["metric"], row["params"]
    k, n = params.get("k"), params.get("n") or len(right)
    if metric == "drop":
        exact, f1 = drop_scores(row["responses"][0], row["choices"])
        return {"em": exact, "f1": f1}
    if metric.startswith("avg_at_k"):
        return dict.fromkeys(row["expected"], sum(right[:k]) / k)
    if metric.startswith("pass_at_k"):
        return dict.fromkeys(row["expected"], pass_at_k(n, sum(right[:n]), k))
    if metric.startswith("maj_at_k"):
        winner = majority(row["responses"][:k], equal)
        return dict.fromkeys(row["expected"], float(winner is not None and right[winner]))
    if metric.startswith("g_pass_at_k"):
        count = sum(right[:n])
        return {
            name: mean_g_pass_at_k(n, count, k)
            if name.startswith("m") and "_" not in name.removeprefix("mmath_").removeprefix("mlatex_")
            else _at_least(n, count, k, max(math.ceil(float(name.rpartition("_")[2]) * k), 1))
            for name in row["expected"]
        }
    return dict.fromkeys(row["expected"], float(right[0]))


@pytest.mark.parametrize("row", vector_params("eval_metrics"))
def test_row(row: dict[str, Any]) -> None:
    if row["id"] in REASONS:
        assert computed(row) != pytest.approx(row["expected"], abs=row["tol"])
        pytest.skip(REASONS[row["id"]])
    assert computed(row) == pytest.approx(row["expected"], abs=row["tol"])


def test_a_reason_is_for_a_row_that_is_there() -> None:
    there = {row["id"] for row in vectors("eval_metrics")}
    assert set(REASONS) <= there or all(str(name).startswith("own-") for name in there)
