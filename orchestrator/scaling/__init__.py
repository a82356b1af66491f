"""What a job takes on many machines, from sizes and rates alone."""
