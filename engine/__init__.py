"""Trainer, inference, checkpoints, the run folder, device and processes."""
