"""Metric rows and training logs made into a page to look at, Markdown tables and model cards."""
