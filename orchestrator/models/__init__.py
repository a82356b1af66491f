"""Encoders: where their parts live, how they are loaded, built, initialised, run and exported."""
