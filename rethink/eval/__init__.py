"""Held-out evaluation and its intervals."""
