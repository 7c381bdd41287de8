"""Training: configuration, stages and the trainer."""
