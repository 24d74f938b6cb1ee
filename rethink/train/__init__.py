"""Training: `grpo.py` is the algorithm top to bottom, `run.py` sets a run up and finishes it."""
