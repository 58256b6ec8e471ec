"""Tuning at equal effort: the trials of each method, the choice among them, and the final runs that are made with it."""
