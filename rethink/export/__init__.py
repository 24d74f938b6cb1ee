"""Export of models: a Hugging Face folder with a model card, or a GGUF file."""
