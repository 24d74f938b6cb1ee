"""Held-out evaluation, and benchmarks by the paper's protocol: graders, intervals, tables."""
