"""Benchmarks, each module a command: `python -m experiments.benchmarks.NAME`."""
