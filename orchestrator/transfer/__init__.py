"""Fine-tuning on a task in one language, and testing in others: where two students meet, which weights go where."""
