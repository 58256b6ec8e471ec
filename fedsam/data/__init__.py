"""Datasets, augmentation, and partitions over clients."""
