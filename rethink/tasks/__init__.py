"""Where problems come from, and what compares answers with the gold: reasoning-gym, JSONL, hub data sets, your own."""
