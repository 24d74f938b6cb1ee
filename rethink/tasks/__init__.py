"""Where problems come from, and what compares answers with the gold."""
