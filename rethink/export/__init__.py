"""Models for others: a Hugging Face folder with its card, or a GGUF file."""
