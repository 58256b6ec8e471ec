"""TensorBoard event files of runs: `<runs_dir>/<run>/tensorboard`."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Self

from experiments.callbacks.callback import Callback
from experiments.settings.toml import toml
from fedsam.imports import require
from fedsam.results.rows import OPTIONAL_COLUMNS, PEAK_COLUMNS, TOTAL_COLUMNS, Row, cumulative

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

    from fedsam.config import Experiment


class TensorBoardCallback(Callback):
    """Writes every round as it comes; a context manager that closes the files.

    Raises:
        ConfigError: The package tensorboard is not installed.
    """

    def __init__(self) -> None:
        require("tensorboard", "--tensorboard")
        self._writers: dict[str, SummaryWriter] = {}
        self._totals: dict[str, Row] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for writer in self._writers.values():
            writer.close()

    def started(self, run_id: str, experiment: Experiment) -> None:
        """Open the file of the run and write its settings."""
        from torch.utils.tensorboard import SummaryWriter

        writer = SummaryWriter(str(experiment.runs_dir / run_id / "tensorboard"))
        writer.add_text("settings", f"```toml\n{toml(experiment.dump())}\n```")
        self._writers[run_id] = writer

    def resumed(self, run_id: str, rows: Sequence[Row]) -> None:
        """Count the costs of the rounds that there are."""
        if rows:
            self._totals[run_id] = cumulative(rows)[-1]

    def round(self, row: Row) -> None:
        """Write the `scalars` of the round; the step is its number."""
        writer, before = self._writers[row.run], self._totals.get(row.run)
        total = cumulative([before, row])[-1] if before else row
        for name, value in scalars(row, total).items():
            writer.add_scalar(name, value, row.round)
        writer.flush()
        self._totals[row.run] = total

    def finished(self, run_id: str, status: str, error: str | None) -> None:
        """Close the file of the run."""
        self._writers.pop(run_id).close()
        self._totals.pop(run_id, None)


def scalars(row: Row, total: Row) -> dict[str, float]:
    """Values of a round by tag: losses, cohort, measures, and the cumulative costs in `total`."""
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
