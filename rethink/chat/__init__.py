"""Chat in the terminal, with any backend."""
