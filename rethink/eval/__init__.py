"""Held-out evaluation during a run, and benchmarks by the paper's protocol: registry, graders, intervals, tables."""
