"""System costs: floating-point operations, time and energy; simulated clients of different speed."""
