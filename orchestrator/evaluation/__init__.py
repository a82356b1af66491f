"""What a model knows and how it sees languages beside one another, measured: each measure yields metric rows."""
