"""TensorBoard event files of runs: `<runs_dir>/<run>/tensorboard`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from experiments.callbacks.named import callback_classes
from experiments.callbacks.tracker import Tracker
from experiments.settings.toml import toml

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

    from fedsam.config import Experiment


class TensorBoardCallback(Tracker):
    """Writes every round as it comes.

    Args:
        unnamed: Only of runs whose setting `callbacks` does not name it.
    """

    package = "tensorboard"

    def __init__(self, *, unnamed: bool = False) -> None:
        super().__init__()
        self._unnamed = unnamed

    def started(self, run_id: str, experiment: Experiment) -> None:
        """Open the run, unless the callback that it names does."""
        if not (self._unnamed and type(self) in callback_classes(experiment)):
            super().started(run_id, experiment)

    def open(self, run_id: str, experiment: Experiment) -> SummaryWriter:
        """Open the file of the run and write its settings."""
        from torch.utils.tensorboard import SummaryWriter

        writer = SummaryWriter(str(experiment.runs_dir / run_id / "tensorboard"))
        writer.add_text("settings", f"```toml\n{toml(experiment.dump())}\n```")
        return writer

    def log(self, handle: SummaryWriter, round: int, values: Mapping[str, float]) -> None:
        """Write the values; the step is the number of the round."""
        for name, value in values.items():
            handle.add_scalar(name, value, round)
        handle.flush()

    def close(self, handle: SummaryWriter, status: str) -> None:
        """Close the file of the run."""
        handle.close()
