"""Engines that sample: ours, through transformers, and a scripted fake."""
