"""What watches runs: progress in the terminal, and event files for TensorBoard."""
