"""What watches runs: progress in the terminal, and trackers of experiments."""
