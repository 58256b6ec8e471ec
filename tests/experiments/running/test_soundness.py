"""The warning that training has not begun."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from experiments.running.soundness import at_chance
from experiments.settings.method import Method
from experiments.settings.presets import expand
from fedsam.overrides import override
from tests.experiments.callbacks.test_progress import row

CHANCE = math.log(10)


def told(round: int, loss: float, **settings: Any) -> str | None:
    experiment = expand(override({"rounds": 50}, {key.replace("__", "."): value for key, value in settings.items()}))
    return at_chance(experiment, Method.of(experiment).optimizer, 10, replace(row(round), train_loss=loss))


@pytest.mark.parametrize(
    ("round", "loss", "is_told"), [(5, CHANCE, True), (5, 9.0, True), (5, 2.0, False), (4, 9.0, False), (6, 9.0, False)]
)
def test_it_is_told_once_after_a_tenth_of_the_rounds(round: int, loss: float, is_told: bool) -> None:
    assert (told(round, loss) is not None) == is_told


def test_it_is_not_told_of_the_first_rounds() -> None:
    assert told(1, CHANCE, rounds=10) is None
    assert told(5, CHANCE, rounds=10) is not None
    assert told(10, CHANCE, rounds=100) is not None


@pytest.mark.parametrize(
    ("settings", "cause"),
    [
        ({}, "client.optimizer.lr: 0.1 may be too small"),
        ({"client__optimizer": {"name": "looksam", "rho": 0.7}}, "client.optimizer.rho: 0.7 may be too large"),
        ({"client__optimizer": {"name": "gsam"}}, "client.optimizer.rho_max: "),
        ({"client__optimizer": {"name": "sam", "rho": 0.0}}, "client.optimizer.lr: 0.1 may be too small"),
        ({"method": "mofedsam"}, "client.optimizer.rho: 0.1 may be too large"),
        ({"method": "dp_fedsam"}, "client.correction.sigma: 0.95 may be more noise"),
        ({"method": "dp_fedsam", "client__correction__sigma": 0.0}, "client.optimizer.rho: 0.5 may be too large"),
    ],
)
def test_it_names_the_usual_cause(settings: dict[str, Any], cause: str) -> None:
    text = told(5, CHANCE, **settings)
    assert text is not None
    assert text.startswith(cause)
    assert "the training loss is 2.3 after 5 of 50 rounds, no better than chance: ln 10 = 2.3" in text
