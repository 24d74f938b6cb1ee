"""A run's folder: recipe, metrics, rollouts, checkpoints and model, written atomically and read by everyone else."""
