"""What a user has from Python: results that are short to look at, and the same numbers wherever they are asked for."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import numpy as np
import pytest

import fedsam
from experiments.running.result import Result
from fedsam.config import ConfigError
from fedsam.results.listing import listed_runs
from strategies.round import DivergedError

SETTINGS = {
    "rounds": 4,
    "model": "lenet5",
    "data": {"dataset": "digits", "clients": 4, "partition": "iid", "examples": 200},
    "client": {"optimizer": {"name": "sgd", "lr": 0.05}},
    "server": {"participation": 2},
    "measure": {"last": 3},
    "compute": {"grid": "inline"},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def result(folder: Path) -> Result:
    return fedsam.run(SETTINGS | {"runs_dir": folder})


def test_final_accuracy_loss_and_gap_are_the_same_everywhere(result: Result, folder: Path, tmp_path: Path) -> None:
    last = result.rows[-1].measures
    assert result.accuracy == pytest.approx(np.mean([row.measures["test_accuracy"] for row in result.rows[1:]]))
    assert result.loss == pytest.approx(np.mean([row.measures["test_loss"] for row in result.rows[1:]]))
    assert result.gap == pytest.approx(last["union_accuracy"] - last["test_accuracy"])
    fedsam.report([result], folder, tmp_path)
    with (tmp_path / "tables" / "generalization.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert [float(row[name]) for name in ("test_accuracy", "test_loss", "gap")] == [result.accuracy, result.loss, result.gap]
    with fedsam.Results.open(folder) as results:
        (listed,) = listed_runs(results)
    assert (listed.accuracy, listed.loss) == (result.accuracy, result.loss)


def test_results_are_short_to_look_at(result: Result, folder: Path) -> None:
    assert repr(result).startswith(f"Result('{result.run_id}', 4 rounds, accuracy=0.") and len(repr(result)) < 120
    with fedsam.Results.open(folder) as results:
        (run,) = results.runs()
        assert repr(results) == f"Results('{folder}/fedsam.db')"
    assert repr(run) == f"Run('{run.id}', 'sgd x fedavg', 'digits', clients=4, seed=0, 'finished')"


def test_rounds_are_a_table(result: Result) -> None:
    table = result.rounds
    assert [row["round"] for row in table] == [1, 2, 3, 4]
    assert [row["test_accuracy"] for row in table] == [row.measures["test_accuracy"] for row in result.rows]
    assert [math.isnan(row["union_loss"]) for row in table] == [True, True, True, False]
    assert len({tuple(row) for row in table}) == 1 and "clients" not in table[0]


def test_rounds_of_all_runs_are_one_table(result: Result, folder: Path) -> None:
    table = fedsam.rounds(runs_dir=folder)
    assert table == fedsam.rounds([result], folder)
    assert [{key: row[key] for key in ("run", "method", "clients", "seed", "round")} for row in table] == [
        {"run": result.run_id, "method": "sgd", "clients": 4, "seed": 0, "round": round} for round in (1, 2, 3, 4)
    ]
    assert [row["test_accuracy"] for row in table] == [row["test_accuracy"] for row in result.rounds]
    with pytest.raises(ConfigError, match="run: 'nothing' is not known"):
        fedsam.rounds(["nothing"], folder)


def test_figures_are_objects_of_matplotlib(result: Result, folder: Path) -> None:
    drawn = fedsam.figures([result], folder)
    assert {"accuracy-rounds", "train-loss-rounds"} <= set(drawn)
    assert drawn["accuracy-rounds"]._repr_png_().startswith(b"\x89PNG")
    (line,) = drawn["accuracy-rounds"].axes[0].get_lines()[:1]
    assert np.asarray(line.get_ydata()) == pytest.approx([100 * row.measures["test_accuracy"] for row in result.rows])


def test_labels_are_smoothed_in_training_alone(result: Result, folder: Path) -> None:
    smooth = fedsam.run(SETTINGS | {"runs_dir": folder / "smooth", "client": {**SETTINGS["client"], "label_smoothing": 0.9}, "rounds": 1})
    # At the first weights all classes score alike: smoothed or not, the loss is near ln 10; nine tenths of a step's pull are gone.
    assert smooth.rows[0].train_loss == pytest.approx(math.log(10), abs=0.05)
    assert abs(smooth.rows[0].measures["test_loss"] - math.log(10)) < abs(result.rows[0].measures["test_loss"] - math.log(10))


def test_a_sweep_is_its_experiments(folder: Path) -> None:
    each = fedsam.sweep(SETTINGS | {"runs_dir": folder, "sweep": {"seeds": [0, 1], "client.optimizer": ["sgd", "sam"]}})
    assert sorted((one.seed, one.client.optimizer.name) for one in each) == [(0, "sam"), (0, "sgd"), (1, "sam"), (1, "sgd")]


def test_a_comparison_is_short_to_look_at_and_has_a_report(result: Result, folder: Path, tmp_path: Path) -> None:
    done = fedsam.compare(SETTINGS | {"runs_dir": folder})
    assert repr(done) == f"ComparisonResult(1 run: 1 finished; runs_dir='{folder}')"
    assert done.report(tmp_path / "out") == tmp_path / "out" / "report.html"
    with pytest.raises(ConfigError, match="at least one must be given"):
        fedsam.report([], folder)


def test_each_class_is_measured_at_the_end(result: Result) -> None:
    first, *_, last = (row.measures for row in result.rows)
    of_class = [last[f"class_accuracy_{kind}"] for kind in range(10)]
    assert "class_accuracy_0" not in first
    # The test set has nearly as many examples of each class.
    assert np.mean(of_class) == pytest.approx(last["test_accuracy"], abs=0.02)


def test_what_other_programs_took_of_the_machine_is_kept(result: Result, folder: Path) -> None:
    with fedsam.Results.open(folder) as results:
        share = results.find_one(result.run_id).other_cpu
    assert share is not None and 0 <= share <= 1


@pytest.mark.parametrize(("lr", "found"), [(1e300, r"\d+ parameters not finite"), (1e30, "test loss nan")])
def test_a_global_vector_or_loss_that_is_not_finite_ends_the_run_with_the_rows_so_far(lr: float, found: str, tmp_path: Path) -> None:
    settings = SETTINGS | {"runs_dir": tmp_path, "server": {"strategy": {"name": "fedavg", "lr": lr}}}
    with pytest.raises(DivergedError, match=rf"round 1 \(seed 0\) diverged: {found}; the learning rate of the clients was 0.05; a") as it:
        fedsam.run(settings)
    assert (it.value.round, it.value.client) == (1, None)
    with fedsam.Results.open(tmp_path) as results:
        (run,) = results.runs()
        assert (run.status, run.error) == ("diverged", str(it.value))
        assert [row.round for row in results.rounds(run.id)] == [1]
