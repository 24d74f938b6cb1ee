"""A conversation in the terminal, with any backend."""
