"""Students: batches read from signals, objectives, groups that share parameters, the training loop, checkpoints."""
