from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from experiments.watching.index import RunIndex
from fedsam.results.store import Results
from tests.support.recorded import add, row


@pytest.fixture
def results(runs_dir: Path) -> Iterator[Results]:
    with Results.open(runs_dir) as results:
        yield results


def change(results: Results, statement: str, *values: str) -> None:
    """Change the file as damage or another version of fedsam would."""
    with closing(sqlite3.connect(results.path, isolation_level=None)) as connection:
        connection.execute("PRAGMA ignore_check_constraints = ON")
        connection.execute(statement, values)


def go_on(results: Results, name: str) -> None:
    """Have this process continue a run."""
    run = results.find_one(name)
    results.continue_run(run, run.config, run.versions)


def versions(index: RunIndex) -> Iterator[bool]:
    """Whether something new was found, at each look."""
    while True:
        before = index.version
        index.refresh()
        yield index.version != before


def test_each_look_finds_what_is_new(runs_dir: Path, results: Results) -> None:
    index = RunIndex(runs_dir, 4)
    found = versions(index)
    assert [next(found), next(found)] == [False, False] and not index.runs
    run = add(results, [0.1, 0.2], status="running", rounds=3, seed=7)
    assert [next(found), next(found)] == [True, False]
    assert (index.runs[run].status, index.runs[run].seed, index.runs[run].rounds) == ("running", 7, 3)
    results.append_round(row(run, 3, {}, 1))
    assert [next(found), next(found)] == [True, False]
    results.finish_run(run, "failed", "no space")
    assert [next(found), next(found)] == [True, False]
    assert (index.runs[run].status, index.runs[run].error, index.runs[run].is_running) == ("failed", "no space", False)


def test_a_run_that_goes_on_is_found_by_its_rounds(runs_dir: Path, results: Results) -> None:
    run, other = add(results, [0.1], status="interrupted"), add(results, [0.1])
    index = RunIndex(runs_dir, 4)
    index.refresh()
    go_on(results, run)
    results.append_round(row(run, 2, {}, 1))
    index.refresh()
    assert [index.runs[each].status for each in (run, other)] == ["running", "finished"]


def test_a_run_that_goes_on_and_has_no_round_is_found_later(runs_dir: Path, results: Results, monkeypatch: pytest.MonkeyPatch) -> None:
    run = add(results, [0.1], status="interrupted")
    index = RunIndex(runs_dir, 4)
    index.refresh()
    go_on(results, run)
    monkeypatch.setattr("experiments.watching.index.RESYNC_SECONDS", -1.0)
    index.refresh()
    assert index.runs[run].is_running


def test_a_run_whose_process_is_gone_is_interrupted(runs_dir: Path, results: Results) -> None:
    run = add(results, [0.1], status="running")
    change(results, "UPDATE runs SET born = 'never' WHERE id = ?", run)
    index = RunIndex(runs_dir, 4)
    index.refresh()
    assert index.runs[run].status == "interrupted"


def test_statuses_of_later_versions_and_damaged_settings_are_shown(runs_dir: Path, results: Results) -> None:
    pruned, damaged = add(results, [0.1]), add(results, [0.1], name="mine")
    change(results, "UPDATE runs SET status = 'pruned' WHERE id = ?", pruned)
    change(results, "UPDATE runs SET config = '{' WHERE id = ?", damaged)
    index = RunIndex(runs_dir, 4)
    index.refresh()
    assert index.problem == "" and index.runs[pruned].status == "pruned"
    assert (index.runs[damaged].method, index.runs[damaged].rounds) == ("mine", None)


def test_deleted_runs_are_forgotten_even_if_others_take_their_places(runs_dir: Path, results: Results) -> None:
    runs = [add(results, [0.1, 0.2]) for _ in range(3)]
    index = RunIndex(runs_dir, 4)
    index.refresh()
    results.delete(runs[2])
    results.delete(runs[1])
    new = add(results, [0.3], status="running")
    index.refresh()
    assert list(index.runs) == [runs[0], new]


def test_a_file_that_is_missing_empty_removed_or_replaced(runs_dir: Path, tmp_path: Path) -> None:
    index = RunIndex(runs_dir, 4)
    index.refresh()
    assert "is not there yet" in index.problem
    runs_dir.mkdir()
    index.path.touch()
    index.refresh()
    assert not index.runs and index.problem
    index.path.unlink()
    with Results.open(runs_dir) as results:
        run = add(results, [0.1])
    index.refresh()
    assert list(index.runs) == [run] and not index.problem
    index.path.rename(tmp_path / "away.db")
    index.refresh()
    assert not index.runs and "is not there yet" in index.problem
    with Results.open(runs_dir) as results:
        other = add(results, [0.1], seed=1)
    index.refresh()
    assert list(index.runs) == [other] and not index.problem


def test_nothing_can_be_written(runs_dir: Path, results: Results) -> None:
    add(results, [0.1])
    with RunIndex(runs_dir, 4).connected() as connection, pytest.raises(sqlite3.OperationalError, match="readonly"):
        connection.execute("DELETE FROM runs")


@pytest.mark.parametrize(
    ("settings", "actors"),
    [
        ({}, 4),
        ({"compute__cpus_per_actor": 2}, 2),
        ({"compute__actors": 3}, 3),
        ({"compute__grid": "inline"}, 1),
        ({"compute__gpus_per_actor": 0.5}, None),
        ({"compute__ray_address": "auto"}, None),
    ],
)
def test_actors_are_those_of_this_machine_where_that_is_known(
    runs_dir: Path, results: Results, settings: dict[str, object], actors: int | None
) -> None:
    run = add(results, [0.1], **settings)
    index = RunIndex(runs_dir, 4)
    index.refresh()
    assert index.runs[run].actors == actors
    assert index.runs[run].alike == "cifar10, 8 rounds"
