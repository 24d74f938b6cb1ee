"""Models: decoder, loading, tokenizer, prompts, export."""
