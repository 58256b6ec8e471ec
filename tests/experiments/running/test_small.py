"""The config `small`: every method is in it, and learns with its settings."""

from __future__ import annotations

from pathlib import Path

import pytest

from experiments.callbacks.progress import Callback
from experiments.running.server_app import run
from experiments.settings import shipped
from experiments.settings.catalogue import check
from experiments.settings.presets import PRESETS
from experiments.settings.sweep import expand
from fedsam.config import Experiment
from fedsam.overrides import override, read

RUNS = {experiment.method: experiment for experiment in expand(read(shipped.configs()["small"]))}


def test_every_method_is_in_it_and_can_run() -> None:
    assert set(RUNS) == set(PRESETS)
    for experiment in RUNS.values():
        check(experiment)


@pytest.mark.slow
@pytest.mark.parametrize("method", PRESETS)
def test_a_method_learns_with_settings_for_small_networks(tmp_path: Path, method: str) -> None:
    settings = override(RUNS[method].dump(), {"compute.grid": "inline", "runs_dir": str(tmp_path)})
    result = run(Experiment.model_validate(settings), Callback())
    assert result.accuracy > 0.5  # chance is 0.1


def test_two_methods_learn_quickly(tmp_path: Path) -> None:
    for method in ("fednsam_momentum", "fedwmsam"):
        changes = {"compute.grid": "inline", "runs_dir": str(tmp_path), "rounds": 6, "measure.union": False}
        result = run(Experiment.model_validate(override(RUNS[method].dump(), changes)), Callback())
        assert result.accuracy > 0.3
