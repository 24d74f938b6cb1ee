"""Rule-based rewards: a rubric of named, weighted reward functions, and the workers that run them."""
