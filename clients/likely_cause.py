"""The likely cause of training that does not begin, or diverges."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def likely_cause(lr: float, radii: Mapping[str, Any], correction: Mapping[str, Any]) -> str:
    """The setting that is the usual cause, and what to try.

    Args:
        lr: Local learning rate.
        radii: Perturbation radii of the optimizer by name.
        correction: The correction with its hyperparameters, as plain values; of `private` the noise counts.

    >>> likely_cause(0.1, {"rho": 0.0}, {"name": "none"})
    'client.optimizer.lr: 0.1 may be too small, or so large that training diverges'
    """
    sigma = correction.get("sigma") if correction.get("name") == "private" else None
    if sigma:
        return f"client.correction.sigma: {sigma} may be more noise than so few clients and rounds bear: try less, or larger cohorts"
    used = {name: value for name, value in radii.items() if value}
    if used:
        name, value = next(iter(used.items()))
        return f"client.optimizer.{name}: {value} may be too large for this network: published radii are for large ones, try a tenth of it"
    return f"client.optimizer.lr: {lr} may be too small, or so large that training diverges"
