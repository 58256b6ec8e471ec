"""Every local optimizer as a `torch.optim.Optimizer`, for training loops outside a federation."""
