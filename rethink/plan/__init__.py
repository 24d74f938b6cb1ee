"""Cost of a run: tokens, operations, memory, time, GPUs."""
