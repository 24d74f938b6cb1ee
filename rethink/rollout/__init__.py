"""Engines that sample: ours, through transformers, on vLLM, and a scripted fake."""
