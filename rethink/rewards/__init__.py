"""Rule-based rewards: a rubric of named, weighted parts, and the workers that score."""
