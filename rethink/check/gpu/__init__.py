"""Whether a GPU computes what the CPU does, and how fast: stages with time limits, JSON after each."""
