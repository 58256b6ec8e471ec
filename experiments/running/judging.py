"""Ending a run that need not be made to its end, as a trial of settings that others have beaten."""

from __future__ import annotations

from collections.abc import Callable

from fedsam.results.final import is_evaluated
from fedsam.results.rows import Row

Judge = Callable[[Row], bool]  # is told of each evaluated round of a run, in order; True: the run may end


class PrunedError(Exception):
    """The judge of a run has ended it."""


def ask(judge: Judge | None, row: Row, *, last: bool = False) -> None:
    """Tell the judge of a round, where there is a judge and the round was evaluated.

    Args:
        last: The run ends with this round whatever the judge says.

    Raises:
        PrunedError: The judge ends the run.
    """
    if judge is not None and is_evaluated(row) and judge(row) and not last:
        raise PrunedError(f"ended after round {row.round} by the judge of its rounds")
