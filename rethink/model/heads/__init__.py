"""Heads on the decoder other than the language model's."""
