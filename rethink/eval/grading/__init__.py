"""Grading: the answer in a completion, and whether it is right."""
