"""orch: distil big frozen transformer encoders into small ones, across languages."""

__version__ = "0.1.0"
