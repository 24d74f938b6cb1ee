"""The charts that only runs on preferences have."""

from rethink.observe.report.panels import ChartPlan

CHARTS = (
    ChartPlan("Loss of the preferences",
              (("preference/loss", "training"), ("eval/preference_loss", "held-out"))),
    ChartPlan("Right side ahead", (("preference/accuracy", "training"), ("eval/accuracy", "held-out")), "share",
              from_zero=True),
    ChartPlan("Lead of the right side", (("preference/margin", "training"), ("eval/margin", "held-out"))),
    ChartPlan("Implicit rewards", (("preference/reward_chosen", "chosen"), ("preference/reward_rejected", "rejected"))),
    ChartPlan("Log-probability of the answers",
              (("preference/logprob_chosen", "chosen"), ("preference/logprob_rejected", "rejected")),
              unit="nats per token"),
    ChartPlan("KL of the preferences", (("preference/kl", "KL"),), unit="nats per answer", from_zero=True),
)  # fmt: skip
