"""Datasets, their augmentation, and their partition over clients."""
