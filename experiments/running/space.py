"""Space on the disk for what a run writes."""

from __future__ import annotations

import shutil
from collections.abc import Callable

from torch import nn

from fedsam.config import Experiment
from fedsam.formatting import size
from fedsam.results.write_queue import StorageError

LOW_BYTES = 2**28  # that are left besides the models, below which the user hears of it


def check_space(experiment: Experiment, module: nn.Module, warn: Callable[[str], None]) -> None:
    """Check that there is space for the models of a run, before its first round; `warn` is told where it is low.

    Raises:
        StorageError: There is not.
    """
    every = experiment.checkpoint.every
    models = 1 + (experiment.rounds // every if every else 0)
    needed = models * sum(tensor.nbytes for tensor in module.state_dict().values())
    free = shutil.disk_usage(experiment.runs_dir).free
    left = f"runs_dir: '{experiment.runs_dir}' has {size(free)} of space left, and the models of this run take {size(needed)}"
    if free < needed:
        raise StorageError(f"{left}; free some space, or give another folder")
    if free < needed + LOW_BYTES:
        warn(f"{left}: little is left for its rounds, and for other runs")
