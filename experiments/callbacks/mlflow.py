"""Runs in MLflow's tracking store: the one that `MLFLOW_TRACKING_URI` names, else where MLflow keeps runs by default."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from experiments.callbacks.tracker import Tracker
from fedsam.overrides import flatten

if TYPE_CHECKING:
    from fedsam.config import Experiment

EXPERIMENT = "fedsam"
ENDS = {"finished": "FINISHED", "interrupted": "KILLED", "pruned": "KILLED"}  # others have failed


class MlflowCallback(Tracker):
    """Logs every round as it comes, in the experiment `fedsam`; settings are parameters."""

    package = "mlflow"

    def __init__(self) -> None:
        super().__init__()
        from mlflow import MlflowClient

        self._client: Any = MlflowClient()

    def open(self, run_id: str, experiment: Experiment) -> str:
        """The id of a new run there."""
        from mlflow.entities import Param

        found = self._client.get_experiment_by_name(EXPERIMENT)
        place = found.experiment_id if found else self._client.create_experiment(EXPERIMENT)
        run: str = self._client.create_run(place, run_name=run_id).info.run_id
        self._client.log_batch(run, params=[Param(key, str(value)) for key, value in flatten(experiment.dump()).items()])
        return run

    def log(self, handle: str, round: int, values: Mapping[str, float]) -> None:
        """Log the values; the step is the number of the round."""
        from mlflow.entities import Metric

        now = int(1000 * time.time())
        self._client.log_batch(handle, metrics=[Metric(name, float(value), now, round) for name, value in values.items()])

    def close(self, handle: str, status: str) -> None:
        """Say how the run ended."""
        self._client.set_terminated(handle, ENDS.get(status, "FAILED"))
