"""Held-out evaluation, and benchmarks with the paper's protocol: graders, intervals, tables."""
