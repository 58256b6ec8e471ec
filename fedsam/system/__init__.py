"""What a run costs: seconds, bytes, memory, gradient evaluations; and clients of different speed."""
