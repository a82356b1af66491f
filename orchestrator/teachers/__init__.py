"""Teachers: frozen encoders turned into signals, one unit of work at a time."""
