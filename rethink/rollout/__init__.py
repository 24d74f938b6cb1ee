"""Engines that sample: our own, transformers, vLLM, and a scripted fake."""
