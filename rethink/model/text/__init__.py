"""What a model reads: prompts, conversations to train on, thoughts, and the text of a reward model."""
