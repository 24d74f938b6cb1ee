"""Built-in rewards: records of what they are and who makes them (`rethink/recipe/reward.py`)."""
