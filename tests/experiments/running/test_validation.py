"""What is held out for validation: which examples, who has them, and what is measured on them."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from experiments import run
from fedsam.config import ConfigError, Experiment, parse
from fedsam.data import datasets
from fedsam.data.federated import partition_examples, validation_examples
from fedsam.results.config_hash import config_hash
from fedsam.results.final import nonfinite
from tests.experiments.running.test_evaluation import federation, settings, without_seconds


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
