"""Rethink: train language models to reason the way DeepSeek-R1 was trained, on the machine you have."""

__version__ = "0.1.0"
