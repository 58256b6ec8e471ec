"""Whether training has begun at all."""

from __future__ import annotations

import math

from clients.optimizers import LocalOptimizer
from fedsam.config import Experiment
from fedsam.results.rows import Row

SHARE = 0.1  # of the rounds after which clients should be better than chance
EARLIEST = 5  # round, as short runs start slowly
CHANCE = 0.97  # share of ln(classes), the loss of equal scores, that counts as no better


def at_chance(experiment: Experiment, optimizer: LocalOptimizer, classes: int, row: Row) -> str | None:
    """What to say where the training loss is that of equal scores after a tenth of the rounds, and five at least; else None."""
    if row.round != max(EARLIEST, math.ceil(SHARE * experiment.rounds)) or row.train_loss < CHANCE * math.log(classes):
        return None
    loss = f"the training loss is {row.train_loss:.3g} after {row.round} of {experiment.rounds} rounds, no better than chance"
    return f"{_cause(experiment, optimizer)} ({loss}: ln {classes} = {math.log(classes):.3g})"


def _cause(experiment: Experiment, optimizer: LocalOptimizer) -> str:
    """The usual cause, and what to try."""
    noise = experiment.client.correction.settings.get("sigma", 0.0) if experiment.client.correction.name == "private" else 0.0
    if noise:
        return f"client.correction.sigma: {noise} may be more noise than so few clients and rounds bear: try less, or larger cohorts"
    radii = {name: value for name, value in optimizer.radii().items() if value}
    if radii:
        name, value = next(iter(radii.items()))
        return f"client.optimizer.{name}: {value} may be too large for this network: published radii are for large ones, try a tenth of it"
    return f"client.optimizer.lr: {optimizer.lr} may be too small, or so large that training diverges"
