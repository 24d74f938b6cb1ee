"""Curated samples: drawn or read, scored, filtered, chosen, balanced, rewritten and mixed into training data."""
