"""The YAML of a run: its models, its reader, and the expansion of a setup into students."""
