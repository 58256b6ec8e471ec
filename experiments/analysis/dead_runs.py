"""Dead runs: those that end no better than a guess, or not finite, and why they probably do."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from clients.likely_cause import likely_cause
from fedsam.results.rows import Run

# Of the datasets of `fedsam.data.datasets`, which takes seconds to import.
TEST_EXAMPLES = {"cifar10": 10_000, "cifar100": 10_000, "fashion_mnist": 10_000, "digits": 355}
TEST_SHARE = 0.2  # of the training examples, where the size of a test set is not known
STANDARD_ERRORS = 2.0
RADII = ("rho", "rho_max", "rho_min", "ascent_radii", "warmup_start")  # of `clients.optimizers`, which takes seconds to import


def chance_level(dataset: str, counts: NDArray[np.int64]) -> float:
    """The highest accuracy, a fraction, that is no better than to answer with the most frequent class always.

    That is the class's share, or 1 / classes, whichever is more, with two binomial standard errors of a test set of that size. The share is
    that among the training examples, which is the test set's where both are drawn alike.

    Args:
        counts: Training examples of each client and class.
    """
    examples = int(counts.sum())
    even = 1 / int(counts.shape[1])
    share = max(even, float(counts.sum(axis=0).max()) / examples) if examples else even
    tested = TEST_EXAMPLES.get(dataset, max(1.0, TEST_SHARE * examples))
    return share + STANDARD_ERRORS * math.sqrt(share * (1 - share) / tested)


def is_dead(final: Mapping[str, float], level: float) -> bool:
    """Whether the test accuracy of a run, or the validation accuracy where there is no other, is at chance or not finite."""
    accuracy = final.get("test_accuracy", final.get("validation_accuracy"))
    return accuracy is not None and not accuracy > level


def cause(run: Run) -> str:
    """The setting that probably keeps a run from learning, and what to try."""
    optimizer, correction = run.config["client"]["optimizer"], run.config["client"].get("correction", {})
    radii = {name: optimizer[name] for name in RADII if optimizer.get(name) is not None}
    return likely_cause(optimizer.get("lr", math.nan), radii, correction)
