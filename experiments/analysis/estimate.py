"""A mean over seeds with its confidence interval; what shows means starts at once, as only an interval imports scipy, and little of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

SIGNIFICANCE_LEVEL = 0.05  # of tests; intervals cover 95 %


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds with its confidence interval.

    Attributes:
        mean: NaN when a run diverged.
        half_width: Half-width of the 95 % interval of Student's t; None for one seed, NaN when a run diverged.
    """

    mean: float
    half_width: float | None

    @classmethod
    def of(cls, values: Sequence[float], comparisons: int = 1) -> Estimate:
        """Estimate from one value per seed.

        Args:
            comparisons: Number of intervals that together cover with 95 %, by Bonferroni's inequality.

        >>> Estimate.of([1.0, 2.0, 3.0]).half_width.__format__(".4f")  # 4.3027 standard errors
        '2.4841'
        """
        if len(values) == 1:
            return cls(float(values[0]), None)
        from scipy.special import stdtrit

        with np.errstate(invalid="ignore", over="ignore"):  # of a run that diverged
            deviation = np.std(values, ddof=1)
        quantile = stdtrit(len(values) - 1, 1 - SIGNIFICANCE_LEVEL / 2 / max(1, comparisons))
        return cls(float(np.mean(values)), float(quantile * deviation / math.sqrt(len(values))))

    @property
    def excludes_zero(self) -> bool:
        """Whether there is an interval, and zero lies outside it."""
        return self.half_width is not None and abs(self.mean) > self.half_width
