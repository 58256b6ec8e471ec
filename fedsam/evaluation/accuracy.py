"""Loss, accuracy and calibration of a parameter vector on a fixed set of images, and the accuracies of clients that follow.

Legend: `w: (P,)`, `buffers: (Q,)`; `p: (clients, classes)` share of each class among a client's examples.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from fedsam.data.augmentation import normalize
from fedsam.data.datasets import Dataset, Images
from fedsam.models.network import Network

BINS = 15
CPU_IMAGES = 100  # that a CPU computes at once, whatever the batch: activations of so many stay in its caches


@dataclass(frozen=True)
class Evaluation:
    """The result of one pass over images.

    Attributes:
        total_loss: Sum of the cross-entropies (nats).
        correct_per_class: Number of correctly classified examples of each class.
        examples_per_class: Number of examples of each class.
        calibration_error: Expected calibration error, a fraction.
    """

    total_loss: float
    correct_per_class: tuple[int, ...]
    examples_per_class: tuple[int, ...]
    calibration_error: float

    @property
    def examples(self) -> int:
        """Number of examples."""
        return sum(self.examples_per_class)

    @property
    def loss(self) -> float:
        """Mean cross-entropy (nats)."""
        return self.total_loss / self.examples

    @property
    def accuracy(self) -> float:
        """Fraction of correctly classified examples."""
        return sum(self.correct_per_class) / self.examples


@dataclass(frozen=True)
class Scores:
    """What a network says of images, on the CPU; scores of consecutive batches are joined without changing a bit of an evaluation.

    Attributes:
        losses: Sum of the cross-entropies (nats) of each batch (batches,), in float64.
        confidence: Probability of the predicted class (N,).
        predicted: That class (N,).
    """

    losses: Tensor
    confidence: Tensor
    predicted: Tensor

    @classmethod
    def joined(cls, parts: Sequence[Scores]) -> Scores:
        """The scores of all parts, in order."""
        return cls(*(torch.cat([getattr(part, each.name) for part in parts]) for each in fields(cls)))

    def evaluation(self, labels: Tensor, classes: int) -> Evaluation:
        """What they come to on images with these labels (N,); batch losses are added up in order."""
        right, total = self.predicted == labels, 0.0
        for loss in self.losses.tolist():  # `sum` compensates for rounding from Python 3.12 on
            total += loss
        return Evaluation(
            total_loss=total,
            correct_per_class=tuple(torch.bincount(labels[right], minlength=classes).tolist()),
            examples_per_class=tuple(torch.bincount(labels, minlength=classes).tolist()),
            calibration_error=calibration_error(self.confidence, right),
        )


def score(network: Network, w: Tensor, buffers: Tensor, images: Images, dataset: Dataset, batch_size: int = 500) -> Scores:
    """Score images in evaluation mode, without augmentation.

    Args:
        dataset: Source of the normalization constants.
    """
    device, dtype = w.device, w.dtype
    at_once = min(batch_size, CPU_IMAGES) if device.type == "cpu" else batch_size
    losses, confidence, predicted = [], [], []
    network.buffers = buffers
    with torch.no_grad(), network.evaluating():
        for x, y in zip(images.x.split(batch_size), images.y.split(batch_size), strict=True):
            parts = (normalize(part.to(device), dataset.mean, dataset.std, dtype) for part in x.split(at_once))
            logits = torch.cat([network(w, part) for part in parts])
            losses.append(functional.cross_entropy(logits, y.to(device), reduction="sum").double())
            most = logits.softmax(dim=1).max(dim=1)
            confidence.append(most.values)
            predicted.append(most.indices)
    return Scores(torch.stack(losses).cpu(), torch.cat(confidence).cpu(), torch.cat(predicted).cpu())


def evaluate(network: Network, w: Tensor, buffers: Tensor, images: Images, dataset: Dataset, batch_size: int = 500) -> Evaluation:
    """Evaluate in evaluation mode, without augmentation; the result does not depend on the batch size.

    Args:
        dataset: Source of the normalization constants and the number of classes.
    """
    return score(network, w, buffers, images, dataset, batch_size).evaluation(images.y.cpu(), dataset.classes)


def calibration_error(confidence: Tensor, right: Tensor) -> float:
    """Expected calibration error: |accuracy - mean confidence| over 15 bins of confidence of equal width, weighted by examples.

    Source: Guo et al., 2017, arXiv:1706.04599, Eq. 3; a bin holds its upper edge.

    Args:
        confidence: (N,) probability of the predicted class.
        right: (N,) whether the prediction is correct.
    """
    if not bool(torch.isfinite(confidence).all()):
        return math.nan
    bins = (confidence.double() * BINS).ceil().long().clamp(1, BINS) - 1
    gaps = torch.bincount(bins, weights=right.double() - confidence.double(), minlength=BINS)
    return float(gaps.abs().sum()) / len(confidence)


def class_accuracies(evaluation: Evaluation) -> NDArray[np.float64]:
    """Accuracy on the examples of each class (classes,); NaN where the evaluation had none."""
    pairs = zip(evaluation.correct_per_class, evaluation.examples_per_class, strict=True)
    return np.array([correct / examples if examples else math.nan for correct, examples in pairs])


def client_accuracies(evaluation: Evaluation, label_distribution: NDArray[np.integer[Any]]) -> NDArray[np.float64]:
    """Accuracy of each client (clients,) on new examples of its own mix of classes: the sum over classes of p accuracy(class).

    Unbiased where clients differ in their label distributions alone, as in our partitions. NaN where a client has a class of which the
    evaluation had no example.

    Args:
        label_distribution: Number of examples of each client and class, (clients, classes).
    """
    p = label_distribution / label_distribution.sum(axis=1, keepdims=True)
    return np.asarray(np.where(p > 0, p * class_accuracies(evaluation), 0.0).sum(axis=1), dtype=np.float64)


def client_accuracy_summary(accuracies: NDArray[np.float64]) -> Mapping[str, float]:
    """Mean and standard deviation over clients, and the mean over the worst tenth of them (at least one)."""
    worst = np.sort(accuracies)[: max(1, len(accuracies) // 10)]
    return {"mean": float(accuracies.mean()), "std": float(accuracies.std()), "worst10": float(worst.mean())}
