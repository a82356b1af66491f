"""Experiments on the data and checkpoints beside the project; started by hand, their figures stand in docs/results."""
