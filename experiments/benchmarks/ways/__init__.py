"""Ways to run one workload: bare PyTorch, fedsam, and its peers. Each is run in a process of its own: `python -m ... NAME TASK`."""
