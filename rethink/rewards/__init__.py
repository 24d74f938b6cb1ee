"""Rule-based rewards: a rubric of named, weighted parts."""
