"""Pipelines: stages as a graph, each run once, resumed where it stopped, found again by what it does."""
