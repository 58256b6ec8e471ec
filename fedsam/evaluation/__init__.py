"""Accuracy, loss and flatness of a model."""
