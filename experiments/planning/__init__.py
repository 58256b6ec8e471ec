"""What an experiment will do and about how long it takes, before it starts."""
