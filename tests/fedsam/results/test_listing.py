"""Which runs a list has, in which order, and what it says of them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import pytest

from fedsam.config import ConfigError
from fedsam.results.listing import listed_runs
from fedsam.results.store import Results
from tests.support.recorded import SAM, add


@pytest.fixture
def results(runs_dir: Path) -> Iterator[Results]:
    """Four runs, named after their place."""
    with Results.open(runs_dir) as results:
        add(results, [0.1, 0.4], name="first")
        add(results, [0.5, 0.7], name="second", client__optimizer=SAM, seed=1)
        add(results, [0.2], name="third", status="failed", data__clients=100)
        add(results, [], name="fourth", status="interrupted", data__augment=["crop"])
        results.set_tags(results.runs()[1].id, ["paper", "final"])
        yield results


@pytest.mark.parametrize(
    ("where", "names"),
    [
        ([], ["first", "second", "third", "fourth"]),
        (["method=*ir*"], ["first", "third"]),
        (["status=finished"], ["first", "second"]),
        (["status!=finished", "clients=100"], ["third"]),
        (["accuracy>0.2"], ["first", "second"]),
        (["accuracy <= 0.25"], ["first", "third"]),
        (["client.optimizer=sam"], ["second"]),
        (["client.optimizer.rho>=0.05"], ["second"]),
        (["tag=paper"], ["second"]),
        (["tag!=paper"], ["first", "third", "fourth"]),
        (["measure.union=true", "seed<1", "rounds=2"], ["first"]),
        (["data.augment=crop"], ["fourth"]),
    ],
)
def test_conditions_choose(results: Results, where: list[str], names: list[str]) -> None:
    assert [one.run.name for one in listed_runs(results, where)] == names


@pytest.mark.parametrize(
    ("sort", "names"),
    [
        ("accuracy", ["third", "first", "second", "fourth"]),
        ("-accuracy", ["second", "first", "third", "fourth"]),
        ("-clients", ["third", "first", "second", "fourth"]),
        ("method", ["first", "fourth", "second", "third"]),
    ],
)
def test_a_column_sorts(results: Results, sort: str, names: list[str]) -> None:
    assert [one.run.name for one in listed_runs(results, sort=sort)] == names


@pytest.mark.parametrize(
    ("where", "sort", "said"),
    [
        (["acuracy>0.5"], "", "where: 'acuracy' is not known, did you mean 'accuracy'?"),
        (["accuracy"], "", "where: 'accuracy' is not allowed: must be KEY=VALUE"),
        ([], "-acc", "sort: 'acc' is not known"),
    ],
)
def test_what_no_run_has_is_an_error(results: Results, where: list[str], sort: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said.replace("?", r"\?")):
        listed_runs(results, where, sort)


def test_accuracy_is_that_of_the_report_and_divergence_is_a_status(results: Results) -> None:
    add(results, [0.1, 0.1], name="fifth", losses=1e26)
    first, *_, last = listed_runs(results)
    assert (first.accuracy, first.rounds, first.status) == (pytest.approx(0.25), 2, "finished")
    assert (last.status, last.diverged, last.accuracy) == ("diverged", 1, pytest.approx(0.1))


def test_a_run_that_was_stopped_because_it_diverged_has_no_final_accuracy(results: Results) -> None:
    add(results, [0.1, 0.2], name="fifth", status="diverged")
    *_, last = listed_runs(results, ["status=diverged"])
    assert (last.status, last.diverged, last.rounds) == ("diverged", 3, 2)
    assert last.accuracy is not None and math.isnan(last.accuracy)


def test_a_run_is_deleted_with_its_tags_and_files(results: Results, runs_dir: Path) -> None:
    run = results.runs()[1]
    (runs_dir / run.id).mkdir()
    results.delete(run.id)
    assert run.id not in [one.id for one in results.runs()]
    assert results.tags() == {} and results.rounds(run.id) == [] and not (runs_dir / run.id).exists()


def test_a_run_at_work_and_more_than_one_are_not_deleted(results: Results) -> None:
    running = add(results, [0.1], status="running")
    with pytest.raises(ConfigError, match="is at work"):
        results.delete(running)
    with pytest.raises(ConfigError, match="5 runs begin so"):
        results.delete(running[:4])
