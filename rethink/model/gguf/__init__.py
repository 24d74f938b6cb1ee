"""GGUF files: header, shape, tensors, vocabulary; read and written."""
