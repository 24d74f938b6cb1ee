"""The decoder: its shape, its layers, packed rows, and `config.json`."""
