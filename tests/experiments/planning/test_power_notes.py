"""What a plan says that its seeds can show."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import pytest

from experiments.analysis.conditions import Condition
from experiments.analysis.power import half_width, smallest_difference
from experiments.planning.plan import PlannedRun
from experiments.planning.power_notes import power_notes
from experiments.settings.catalogue import check
from experiments.settings.presets import expand
from fedsam.overrides import override
from fedsam.results.rows import Run
from fedsam.results.store import Results
from tests.support.recorded import add


@pytest.fixture
def results(runs_dir: Path) -> Iterator[Results]:
    with Results.open(runs_dir) as results:
        yield results


def planned(runs_dir: Path, label: str, seed: int, run: Run | None = None) -> PlannedRun:
    experiment = expand(override({"rounds": 1}, {"seed": seed, "runs_dir": str(runs_dir)}))
    return PlannedRun(check(experiment), label, Condition(experiment.data.clients), run)


def plan(runs_dir: Path, methods: int, seeds: int) -> list[PlannedRun]:
    return [planned(runs_dir, f"method {method}", seed) for method in range(methods) for seed in range(seeds)]


@pytest.mark.parametrize(
    ("methods", "seeds", "notes"),
    [
        (1, 5, []),
        (3, 1, ["1 seed: no test and no interval; differences may be chance"]),
        (
            8,
            5,
            [
                "5 seeds: the smallest p is 0.0625, with Holm over 7 methods 0.44: no difference can be significant at 5 %; "
                "9 seeds would allow it"
            ],
        ),
        (2, 6, ["6 seeds: the smallest p is 0.03125: a difference that all seeds agree on can be significant at 5 %"]),
    ],
)
def test_the_smallest_p_is_told(runs_dir: Path, methods: int, seeds: int, notes: list[str]) -> None:
    assert power_notes(plan(runs_dir, methods, seeds)) == notes


def test_the_interval_is_expected_from_runs_that_ended(results: Results, runs_dir: Path) -> None:
    runs = [results.find_one(add(results, [accuracy], seed=seed)) for seed, accuracy in enumerate((0.50, 0.52))]
    ended = [planned(runs_dir, "sgd", seed, run) for seed, run in enumerate(runs)]
    (_, told) = power_notes([*ended, *plan(runs_dir, 1, 2)])
    deviation = math.sqrt(2) * 0.02 / math.sqrt(2)  # of a difference: root of 2 times that of the two accuracies
    assert told == (
        "accuracy varies by 1.4 points over seeds (1 line that ended): a difference from the baseline would come with "
        f"± {100 * half_width(deviation, 2):.2g} points, and one of {100 * smallest_difference(deviation, 2):.2g} points be found with "
        "80 % probability"
    )
