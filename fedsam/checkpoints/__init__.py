"""Checkpoints of runs in progress, in files that are there whole or not at all."""
