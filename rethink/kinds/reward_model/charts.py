"""The charts that only reward models have, and the section of the report on preferences."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rethink.observe.report.markup import table, text
from rethink.observe.report.panels import ChartPlan
from rethink.observe.report.sections import section

CHARTS = (
    ChartPlan("Loss of the pairs or labels",
              (("reward_model/loss", "training"), ("eval/reward_model_loss", "held-out")), unit="nats", from_zero=True),
    ChartPlan("Right side ahead", (("reward_model/accuracy", "training"), ("eval/accuracy", "held-out")), "share",
              from_zero=True),
    ChartPlan("Lead of the right side", (("reward_model/margin", "training"), ("eval/margin", "held-out"))),
)  # fmt: skip


def sections(data: Mapping[str, Any]) -> str:
    """What preferences a model was trained on, and how well a reward model's probabilities are calibrated."""
    summary = data["summary"] or {}
    facts = summary.get("data")
    if not isinstance(facts, Mapping):
        return ""
    counts = f"{facts['train']} examples trained on ({facts['replayed']} of them earlier ones), {facts['held_out']}"
    lines = [f"{counts} held out."]
    if facts["unusable"]:
        lines.append("Left out: " + ", ".join(f"{n} {reason}" for reason, n in facts["unusable"].items()) + ".")
    if facts["synthetic"]:
        made = ", ".join(f"{n} by {rule}" for rule, n in facts["synthetic"].items())
        lines.append(f"Synthetic: pairs made by rule and not by people ({made}). The model has learned these rules.")
    shown = "".join(f"<p>{text(line)}</p>" for line in lines)
    bins = [entry for entry in (summary.get("after") or {}).get("reliability", []) if entry["n"]]
    cells = [
        [f"{e['low']:.2f} – {e['high']:.2f}", f"{e['probability']:.3f}", f"{e['share']:.3f}", str(e["n"])] for e in bins
    ]
    if cells:
        shown += table(["probability", "mean given", "share that came true", "examples"], cells, class_="results")
    return section("preference-data", "Examples and calibration" if cells else "Examples", shown)
