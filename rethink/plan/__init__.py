"""What a run takes: tokens, operations, memory, time, GPUs."""
