"""Sweeps: many runs that differ in a few values, trained beside each other, compared in one table."""
