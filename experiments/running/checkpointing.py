"""Checkpoints of a run in progress: when they are written, what they hold, and how a run goes on from one.

A checkpoint after a round holds its row without what evaluation measures, as the clients evaluate it while they train the next round. A
run that goes on therefore evaluates that round again, to the same values.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fedsam.checkpoints.checkpoints import Checkpoint, CheckpointError, CheckpointFolder
from fedsam.config import Experiment
from fedsam.grid.base import LocalGrid
from fedsam.messages.state_tree import from_tree, to_tree
from fedsam.results.resuming import row_from_tree, row_tree
from fedsam.results.rows import Row
from fedsam.results.store import Results
from strategies.cohort import CohortStrategy

FOLDER_NAME = "checkpoints"  # in the folder of the run
MOST_TIME = 0.02  # of a run, that checkpoints by time may take


@dataclass(frozen=True)
class EndedRound:
    """A round that has ended.

    Attributes:
        row: Its row, without what evaluation measures.
        server: What the server has then, as of `CohortStrategy.snapshot`.
    """

    row: Row
    server: Mapping[str, Any]


class Checkpointer:
    """Writes the checkpoints of a run whose clients' states are on a grid of ours, and reads them.

    Args:
        experiment: Says when they are due, besides at an end before the last round.
        run: Id of the run.
        results: Its results.
        tell: Is told of each checkpoint: its round, and the seconds that it took.
        warn: Gets warnings for the user.
    """

    def __init__(
        self,
        experiment: Experiment,
        run: str,
        results: Results,
        strategy: CohortStrategy,
        grid: LocalGrid,
        tell: Callable[[int, float], None],
        warn: Callable[[str], None],
    ) -> None:
        self._settings, self._run, self._results, self._strategy, self._grid = experiment.checkpoint, run, results, strategy, grid
        self._tell, self._warn = tell, warn
        self._folder = CheckpointFolder(experiment.runs_dir / run / FOLDER_NAME)
        self._ended: EndedRound | None = None
        self._written = 0  # the round of the checkpoint that was written last
        self._written_at, self._took = time.monotonic(), 0.0

    def restore(self) -> tuple[list[Row], Row] | None:
        """Have server and clients be what they were after the round of the latest checkpoint; None where there is none that can be used.

        Returns:
            The rows of the rounds before it, and the row of its round, which is to be evaluated.
        """
        rows = self._results.rounds(self._run)
        try:
            found = self._folder.latest(most=_without_gap(rows) + 1)
            if found is not None and found.identity["run"] != self._run:
                raise CheckpointError(f"{self._folder.path} is of run {found.identity['run']}")
        except CheckpointError as error:
            self._warn(f"no checkpoint can be used, and the run begins again with round 1: {error}")
            return None
        if found is None:
            return None
        for damaged in found.damaged:
            self._warn(f"a checkpoint cannot be used, and the one after round {found.round} is: {damaged}")
        self._set(found)
        return rows[: found.round - 1], row_from_tree(found.server["row"])

    def _set(self, found: Checkpoint) -> None:
        self._strategy.restore(found.round, found.server["strategy"])
        nodes = self._grid.nodes_by_partition
        self._grid.states.restore((nodes[client], from_tree(state)) for client, state in found.clients())
        self._written = found.round

    def end_round(self, row: Row) -> None:
        """Note that a round has ended, all but the last one's evaluation, and write its checkpoint if one is due."""
        self._ended = None  # an interrupt here would find the states of one round and the server of another
        self._grid.states.mark()
        self._ended = EndedRound(row, self._strategy.snapshot())
        if self._is_due(row.round):
            self.write()

    def write(self) -> None:
        """Write the checkpoint after the round that ended last, unless it is there; the user is warned where it cannot be written."""
        ended = self._ended
        if ended is None or ended.row.round == self._written:
            return
        start = time.monotonic()
        try:
            self._results.check_own(self._run)
            clients = ((node - 1, to_tree(state)) for node, state in self._grid.states.unsaved())
            self._folder.write(ended.row.round, {"row": row_tree(ended.row), "strategy": ended.server}, clients, self._identity())
        except (OSError, TypeError, sqlite3.OperationalError) as error:
            self._warn(f"the checkpoint after round {ended.row.round} could not be written: {error}")
        else:
            self._grid.states.saved()
            self._written = ended.row.round
            self._tell(ended.row.round, time.monotonic() - start)
        self._written_at, self._took = time.monotonic(), time.monotonic() - start

    def stop(self) -> None:
        """As `write`, where an error or a signal ends the run, which no other error may hide."""
        try:
            self.write()
        except Exception as error:
            self._warn(f"no checkpoint could be written at the end: {error}")

    def _is_due(self, round: int) -> bool:
        """By rounds; or by time, but seldom enough to cost little."""
        every, seconds = self._settings.every, self._settings.seconds
        passed = time.monotonic() - self._written_at
        return bool(every and round % every == 0) or bool(seconds and passed >= max(seconds, self._took / MOST_TIME))

    def _identity(self) -> dict[str, str]:
        (run,) = self._results.find([self._run])
        return {"run": run.id, "config_hash": run.config_hash, **run.versions}


def _without_gap(rows: Sequence[Row]) -> int:
    """The last round up to which all are there."""
    return next((number for number, row in enumerate(rows) if row.round != number + 1), len(rows))
