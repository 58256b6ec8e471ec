"""Plans of comparisons, and forecasts of the work and time of runs."""
