"""Metric glossary, live view, trackers, report. They read the store and never change the run."""
