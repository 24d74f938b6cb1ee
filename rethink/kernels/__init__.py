"""The hot operations as functions of tensors, and what this machine can do."""
