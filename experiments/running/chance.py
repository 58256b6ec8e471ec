"""Whether training has begun at all."""

from __future__ import annotations

import math

from clients.likely_cause import likely_cause
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
    cause = likely_cause(optimizer.lr, optimizer.radii(), experiment.client.correction.model_dump())
    return f"{cause} ({loss}: ln {classes} = {math.log(classes):.3g})"
