"""How a run goes: trainer, inference, checkpoints, the run folder, device and processes."""
