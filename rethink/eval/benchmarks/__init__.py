"""Benchmarks: the catalogue, their problems, the ways to ask, and published numbers."""
