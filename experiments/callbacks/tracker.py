"""What callbacks for trackers of experiments have in common: the values of a round by name, and how runs are opened and closed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, Self

from experiments.callbacks.callback import Callback
from fedsam.imports import require
from fedsam.results.rows import OPTIONAL_COLUMNS, PEAK_COLUMNS, TOTAL_COLUMNS, Row, cumulative

if TYPE_CHECKING:
    from fedsam.config import Experiment


class Tracker(Callback, ABC):
    """Hands every round to a tracker as it comes; a context manager that closes what is open.

    Attributes:
        package: What must be installed.

    Raises:
        ConfigError: It is not.
    """

    package: ClassVar[str]

    def __init__(self) -> None:
        require(self.package, self.package)
        self._open: dict[str, Any] = {}
        self._totals: dict[str, Row] = {}

    @abstractmethod
    def open(self, run_id: str, experiment: Experiment) -> Any:
        """Open a run, with its settings; what the other methods are given of it."""

    @abstractmethod
    def log(self, handle: Any, round: int, values: Mapping[str, float]) -> None:
        """Write the values of a round."""

    @abstractmethod
    def close(self, handle: Any, status: str) -> None:
        """Close a run that has ended so, or that is left open (`interrupted`)."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for run_id in tuple(self._open):
            self.finished(run_id, "interrupted", None)

    def started(self, run_id: str, experiment: Experiment) -> None:
        """Open the run."""
        self._open[run_id] = self.open(run_id, experiment)

    def resumed(self, run_id: str, rows: Sequence[Row]) -> None:
        """Count the costs of the rounds that there are."""
        if rows:
            self._totals[run_id] = cumulative(rows)[-1]

    def round(self, row: Row) -> None:
        """Write the `scalars` of the round, if its run is open."""
        if row.run not in self._open:
            return
        before = self._totals.get(row.run)
        self._totals[row.run] = total = cumulative([before, row])[-1] if before else row
        self.log(self._open[row.run], row.round, scalars(row, total))

    def finished(self, run_id: str, status: str, error: str | None) -> None:
        """Close the run, if it could be opened."""
        if run_id in self._open:
            self.close(self._open.pop(run_id), status)
        self._totals.pop(run_id, None)


def scalars(row: Row, total: Row) -> dict[str, float]:
    """Values of a round by name: losses, cohort, measures, and the cumulative costs in `total`."""
    costs = {
        name: getattr(total, name) for name in (*TOTAL_COLUMNS, *OPTIONAL_COLUMNS, *PEAK_COLUMNS) if name not in ("cohort", "failures")
    }
    return {
        "train_loss": row.train_loss,
        "cohort": row.cohort,
        "failures": row.failures,
        **{f"measures/{name}": value for name, value in row.measures.items()},
        **{f"costs/{name}": value for name, value in costs.items() if value is not None},
    }
