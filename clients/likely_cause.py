"""The likely cause of training that does not begin, or diverges."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def likely_cause(lr: float, radii: Mapping[str, Any], sigma: float = 0.0) -> str:
    """The setting that is the usual cause, and what to try.

    Args:
        lr: Local learning rate.
        radii: Perturbation radii of the optimizer by name.
        sigma: Noise of the correction `private`.

    >>> likely_cause(0.1, {"rho": 0.0})
    'client.optimizer.lr: 0.1 may be too small, or so large that training diverges'
    """
    if sigma:
        return f"client.correction.sigma: {sigma} may be more noise than so few clients and rounds bear: try less, or larger cohorts"
    used = {name: value for name, value in radii.items() if value}
    if used:
        name, value = next(iter(used.items()))
        return f"client.optimizer.{name}: {value} may be too large for this network: published radii are for large ones, try a tenth of it"
    return f"client.optimizer.lr: {lr} may be too small, or so large that training diverges"
