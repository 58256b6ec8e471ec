"""Numbers from stored runs: labels, statistics, leaderboards, curves."""
