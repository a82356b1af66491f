"""Recipes: what ships, and how one goes under a configuration."""
