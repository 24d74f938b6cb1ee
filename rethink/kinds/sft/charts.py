"""The charts that only fine-tuning has."""

from rethink.observe.report.panels import ChartPlan

CHARTS = (
    ChartPlan("Fine-tuning loss", (("train/loss", "training"), ("eval/loss", "held-out")), unit="nats per token"),
    ChartPlan("Entropy at the trained tokens", (("train/entropy", "entropy"),), unit="nats per token", from_zero=True),
    ChartPlan("Tokens of a step", (("train/tokens", "trained"), ("train/input_tokens", "computed*")), unit="tokens",
              from_zero=True),
)  # fmt: skip
