"""What is held out for validation: which examples, who has them, and what is measured on them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from flwr.app import Message

from clients import client_app
from experiments import run
from experiments.analysis.comparison import compare_runs
from experiments.analysis.statistics import Estimate
from experiments.callbacks.callback import Callback
from experiments.planning.forecast import Forecaster
from experiments.reporting.tables import generalization
from experiments.running.grids import grids
from experiments.running.result import Result
from experiments.running.server_app import serve
from experiments.settings.catalogue import check
from fedsam.config import ConfigError, Experiment, parse
from fedsam.data import datasets
from fedsam.data.federated import partition_examples, validation_examples
from fedsam.grid.base import GridCallback
from fedsam.grid.inline import InlineGrid
from fedsam.messages.codec import Answer
from fedsam.results.config_hash import config_hash
from fedsam.results.final import nonfinite
from fedsam.results.store import Results
from tests.experiments.running.test_evaluation import ALL, federation, settings, without_seconds
from tests.support.recorded import lines_of


def held_out(**data: Any) -> tuple[set[int], set[int]]:
    """The examples of the clients and those held out, of digits."""
    experiment = parse({"seed": data.pop("seed", 0), "data": {"dataset": "digits", "clients": 5, **data}})
    dataset = datasets.load("digits")
    parts, validation = partition_examples(experiment, dataset), validation_examples(experiment, dataset)
    assert len(set(validation.tolist())) == len(validation)
    return set(np.concatenate(parts).tolist()), set(validation.tolist())


@pytest.mark.parametrize(("limit", "used"), [(None, 1442), (300, 300)])
def test_a_share_drawn_by_seed_belongs_to_no_client(limit: int | None, used: int) -> None:
    data = {} if limit is None else {"examples": limit}
    everything, nothing = held_out(**data)
    clients, validation = held_out(**data, validation=0.1)
    assert nothing == set()
    assert len(validation) == round(0.1 * used)
    assert clients == everything - validation
    assert held_out(**data, validation=0.1) == (clients, validation)
    assert held_out(**data, validation=0.1, seed=1)[1] != validation


@pytest.mark.parametrize(
    ("share", "message"),
    [
        (0.01, r"data\.validation: 0\.01 is not allowed: of 20 training examples it holds out no example"),
        (0.99, r"data\.validation: 0\.99 is not allowed: of 20 training examples it holds out all"),
        (1.0, r"data\.validation"),
        (-0.1, r"data\.validation"),
    ],
)
def test_a_share_that_leaves_one_side_empty_is_refused(share: float, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        held_out(examples=20, validation=share)


def test_settings_without_it_have_the_hash_that_they_had() -> None:
    plain, zero, some = (parse({"data": data}).dump() for data in ({}, {"validation": 0.0}, {"validation": 0.1}))
    older = {**plain, "data": {key: value for key, value in plain["data"].items() if key != "validation"}}
    assert config_hash(plain) == config_hash(zero) == config_hash(older)
    assert config_hash(some) != config_hash(plain)


def validated(folder: Path, **changes: Any) -> Experiment:
    return settings(folder, rounds=2, data__validation=0.2, measure__batch_size=7, **changes)


def test_loss_and_accuracy_are_those_of_the_final_model_on_what_is_held_out(tmp_path: Path) -> None:
    experiment, digits = validated(tmp_path), datasets.load("digits")
    result = run(experiment)
    with torch.no_grad():
        images = digits.train.select(torch.from_numpy(validation_examples(experiment, digits)))
        scores = result.model.double()((images.x.double() / 255 - digits.mean[0]) / digits.std[0])
    measures = result.rows[-1].measures
    assert measures["validation_loss"] == pytest.approx(float(torch.nn.functional.cross_entropy(scores, images.y)))
    assert measures["validation_accuracy"] == pytest.approx(float((scores.argmax(1) == images.y).double().mean()))
    assert all("validation_loss" in row.measures for row in result.rows)
    union = federation(experiment).client_examples(*range(experiment.data.clients))
    assert len(union.y) == 320


def test_a_grid_of_others_measures_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = run(validated(tmp_path))
    monkeypatch.setattr("experiments.running.evaluation.LocalGrid", type("Nothing", (), {}))
    assert without_seconds(run(validated(tmp_path)).rows) == without_seconds(ours.rows)


def test_a_validation_loss_that_is_not_finite_is_divergence(tmp_path: Path) -> None:
    row = run(validated(tmp_path)).rows[-1]
    assert nonfinite(row) == ""
    lost = replace(row, measures={**row.measures, "validation_loss": math.nan})
    assert nonfinite(lost) == "validation loss nan"


def on(experiment: Experiment, dataset: datasets.Dataset, callback: GridCallback | None = None) -> Result:
    """The result of a run in this process on a dataset."""
    grid = InlineGrid(partial(client_app.make, dataset), experiment.data.clients, {"experiment": experiment.dumps()})
    grid.callback = callback or GridCallback()
    return serve(check(experiment), grid, dataset, Callback())


def test_what_is_held_out_changes_no_training_and_no_other_measure(tmp_path: Path) -> None:
    experiment, digits = validated(tmp_path, measure__flatness=ALL | {"measures": ["average"], "every": 1}), datasets.load("digits")
    held_out = torch.from_numpy(validation_examples(experiment, digits))
    x, y = digits.train.x.clone(), digits.train.y.clone()
    x[held_out], y[held_out] = 255 - x[held_out], 9 - y[held_out]
    one, other = on(experiment, digits), on(experiment, replace(digits, train=datasets.Images(x, y)))
    assert torch.equal(one.w, other.w)
    for row, changed in zip(without_seconds(one.rows), without_seconds(other.rows), strict=True):
        differing = {name for name in row if row[name] != changed[name]}
        assert differing == {"validation_accuracy", "validation_loss"}


class Asked(GridCallback):
    """Keeps the types of messages."""

    def __init__(self) -> None:
        self.types = set[str]()

    def sent(self, messages: Sequence[Message]) -> None:
        self.types |= {message.metadata.message_type for message in messages}


def test_a_run_that_may_not_see_the_test_set_asks_nothing_of_it(tmp_path: Path) -> None:
    experiment, digits = validated(tmp_path, measure__test=False), datasets.load("digits")
    others = replace(digits, test=datasets.Images(255 - digits.test.x[:9], 9 - digits.test.y[:9]))
    one, other = on(experiment, digits, asked := Asked()), on(experiment, others)
    assert asked.types == {"train", "query.validation", "query.union"}
    assert [set(row.measures) for row in one.rows] == [
        {"validation_accuracy", "validation_loss"},
        {"validation_accuracy", "validation_loss", "union_accuracy", "union_loss"},
    ]
    assert without_seconds(one.rows) == without_seconds(other.rows)
    assert torch.equal(one.w, other.w)
    assert math.isnan(one.accuracy) and math.isnan(one.loss) and one.gap is None
    assert one.measures["validation_accuracy"] == pytest.approx(np.mean([row.measures["validation_accuracy"] for row in one.rows]))


class Recording(Forecaster):
    """Keeps what it asks clients."""

    asked: ClassVar[set[str]] = set()

    def _query(self, *arguments: Any) -> list[Answer]:
        self.asked.add(arguments[4])
        return super()._query(*arguments)


def test_it_is_planned_and_reported_without_the_test_set(tmp_path: Path) -> None:
    experiment = validated(tmp_path, measure__test=False)
    with grids([experiment]) as group:
        work = Recording(group).forecast(check(experiment)).workload
    assert work.evaluated_examples == 2 * 80 + 320
    assert Recording.asked == {"speed", "validation", "flatness"}
    result = run(experiment)
    with Results.open(tmp_path) as results:
        (entry,) = lines_of(results)
        (row,) = generalization(compare_runs(results, results.runs())).rows
    assert (entry.status, entry.is_ranked, entry.accuracy) == ("finished", False, None)
    assert entry.measures["validation_accuracy"] == Estimate(pytest.approx(result.measures["validation_accuracy"]), None)
    assert entry.measures["validation_accuracy"] in row
