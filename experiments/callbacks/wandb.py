"""Runs in Weights & Biases: offline unless `WANDB_MODE` says otherwise, in the folder of the run; `wandb sync` uploads them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from experiments.callbacks.tracker import Tracker

if TYPE_CHECKING:
    from fedsam.config import Experiment

PROJECT = "fedsam"  # unless WANDB_PROJECT names another


class WandbCallback(Tracker):
    """Logs every round as it comes."""

    package = "wandb"

    def open(self, run_id: str, experiment: Experiment) -> Any:
        """A run there, beside others of this process."""
        import wandb

        return wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=run_id,
            config=experiment.dump(),
            dir=str(experiment.runs_dir / run_id),
            mode=os.environ.get("WANDB_MODE", "offline"),
            reinit="create_new",
            settings=wandb.Settings(silent=True, disable_git=True),
        )

    def log(self, handle: Any, round: int, values: Mapping[str, float]) -> None:
        """Log the values; the step is the number of the round."""
        handle.log(dict(values), step=round)

    def close(self, handle: Any, status: str) -> None:
        """Say whether the run finished."""
        handle.finish(exit_code=int(status != "finished"))
