"""Runs that have not begun to learn, and runs that have diverged."""

from __future__ import annotations

import math

from flwr.serverapp import Grid

from clients.likely_cause import likely_cause
from clients.optimizers import LocalOptimizer
from fedsam.config import Experiment
from fedsam.grid.base import LocalGrid
from fedsam.results.final import nonfinite
from fedsam.results.rows import Row
from strategies.round import DivergedError, RoundConfig

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


def check_finite(row: Row, config: RoundConfig) -> None:
    """Check the losses and the global vector of a round.

    Raises:
        DivergedError: One of them is not finite; the message says which, whose client's it was, and what may help.
    """
    found = nonfinite(row)
    if not found:
        return
    client = next((one.client for one in row.clients if one.steps and not math.isfinite(one.train_loss)), None)
    whose, at_fault = (f" (of client {client})", "") if client is not None else ("", ", a smaller learning rate of the server")
    raise DivergedError(
        f"round {row.round} (seed {config.seed}) diverged: {found}{whose}; the learning rate of the clients was {config.lr(row.round):g}; "
        f"a smaller client.optimizer.lr{at_fault} or a clip_norm may help",
        row.round,
        client,
    )


def finish(grid: Grid) -> None:
    """Have a grid of ours end what it is at after an error. Raises `DivergedError` where it turns out that the run had diverged before."""
    if isinstance(grid, LocalGrid):
        try:
            grid.finish()
        except DivergedError:
            grid.finish()
            raise
