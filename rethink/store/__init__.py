"""The run folder: one process writes it atomically, all others read it."""
