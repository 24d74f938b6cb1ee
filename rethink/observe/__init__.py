"""Metric glossary, live view, trackers, report: they read the store and never touch the run."""
