"""Whether this machine can run experiments, and how fast."""
