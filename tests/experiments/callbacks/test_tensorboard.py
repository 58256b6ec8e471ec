"""Event files, read back by TensorBoard's own reader."""

from __future__ import annotations

import math
import sys
from collections import defaultdict
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

from experiments.callbacks.callback import Callback, CallbackList
from experiments.callbacks.tensorboard import TensorBoardCallback
from experiments.callbacks.tracker import scalars
from experiments.running.scheduler import run_all
from fedsam.config import ConfigError
from fedsam.results.rows import Row, cumulative
from fedsam.results.store import Results
from tests.experiments.running.test_server_app import experiment
from tests.support.recorded import row

Curves = dict[str, list[tuple[int, float]]]


def read(folder: Path) -> tuple[Curves, str]:
    """The curves in the event file of a folder, and its text of the settings."""
    curves: Curves = defaultdict(list)
    text, (file,) = "", folder.iterdir()
    for event in EventFileLoader(str(file)).Load():
        for value in event.summary.value:
            if value.metadata.plugin_data.plugin_name == "scalars":
                curves[value.tag].append((event.step, value.tensor.float_val[0]))
            elif value.metadata.plugin_data.plugin_name == "text":
                text = value.tensor.string_val[0].decode()
    return dict(curves), text


class Looker(Callback):
    """Reads the events of the current run as soon as a round is kept."""

    def __init__(self, runs_dir: Path) -> None:
        self.runs_dir = runs_dir
        self.seen: list[int] = []

    def round(self, row: Row) -> None:
        """Counted."""
        curves, _ = read(self.runs_dir / row.run / "tensorboard")
        self.seen.append(len(curves["train_loss"]))


def test_every_round_of_every_run_is_there_as_it_comes(tmp_path: Path) -> None:
    looker = Looker(tmp_path)
    with TensorBoardCallback() as events:
        run_all([experiment(tmp_path, rounds=3), experiment(tmp_path, rounds=2, seed=1)], CallbackList(events, looker))
    assert looker.seen == [1, 2, 3, 1, 2]
    with Results.open(tmp_path) as results:
        for run in results.runs():
            rows = results.rounds(run.id)
            curves, text = read(tmp_path / run.id / "tensorboard")
            want = [scalars(row, total) for row, total in zip(rows, cumulative(rows), strict=True)]
            assert set(curves) == {name for entry in want for name in entry}
            for name, points in curves.items():
                assert points == [(round, pytest.approx(entry[name])) for round, entry in enumerate(want, 1) if name in entry]
            assert f"seed = {run.seed}" in text and 'name = "lenet5"' in text


def test_a_diverged_round_is_written_and_costs_add_up(tmp_path: Path) -> None:
    with TensorBoardCallback() as events:
        events.started("r", experiment(tmp_path))
        events.round(row("r", 1, {"test_loss": math.nan}, 100))
        events.round(row("r", 2, {}, 50))
        events.finished("r", "finished", None)
    curves, _ = read(tmp_path / "r" / "tensorboard")
    assert math.isnan(curves["measures/test_loss"][0][1])
    assert curves["costs/gradient_evaluations"] == [(1, 100.0), (2, 150.0)]
    assert curves["cohort"] == [(1, 2.0), (2, 2.0)]
    assert "costs/energy" not in curves


def test_a_run_that_names_the_callback_is_not_written_twice(tmp_path: Path) -> None:
    with TensorBoardCallback(unnamed=True) as events:
        run_all([experiment(tmp_path, rounds=2, callbacks=["tensorboard"]), experiment(tmp_path, rounds=1, seed=1)], events)
    files = sorted(tmp_path.glob("*/tensorboard/*"), key=lambda file: file.stat().st_mtime_ns)
    assert len(files) == 2
    assert [len(read(file.parent)[0]["train_loss"]) for file in files] == [2, 1]


def test_without_tensorboard_nothing_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(ConfigError, match=r"tensorboard: needs the package tensorboard, .*: pip install tensorboard"):
        TensorBoardCallback()
