"""The end of a run that has diverged."""

from __future__ import annotations

import math

from flwr.serverapp import Grid

from fedsam.grid.base import LocalGrid
from fedsam.results.final import nonfinite
from fedsam.results.rows import Row
from strategies.round import DivergedError, RoundConfig


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
