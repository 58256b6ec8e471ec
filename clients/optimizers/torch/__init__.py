"""Local optimizers written for torch: any `torch.optim.Optimizer` that takes a closure."""
