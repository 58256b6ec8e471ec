"""Benchmarks: `fedsam bench`, and the commands `python -m experiments.benchmarks.client_state` and `... .optimizers`."""
