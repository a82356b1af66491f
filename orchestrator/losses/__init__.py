"""Losses as plain functions of tensors: each returns a sum over its valid elements and their number."""
