"""A run's folder, written atomically and read by everyone else."""
