from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from experiments.callbacks.plans import PlannedWork, add_plan
from experiments.watching import set_view
from experiments.watching.views import SETS, ViewRequest, Views
from fedsam.results.rows import ClientRow
from fedsam.results.store import Results
from tests.support.recorded import SAM, SGD, add, row


@pytest.fixture
def results(runs_dir: Path) -> Iterator[Results]:
    with Results.open(runs_dir) as results:
        yield results


def set_command(results: Results, command: str, runs: Sequence[str]) -> None:
    with closing(sqlite3.connect(results.path, isolation_level=None)) as connection:
        connection.executemany("UPDATE runs SET command = ? WHERE id = ?", [(command, run) for run in runs])


def show(runs_dir: Path, **request: Any) -> dict[str, Any]:
    return Views(runs_dir, 4).show(ViewRequest(**request))


def rows_of(view: dict[str, Any], name: str) -> list[list[Any]]:
    return next((table["rows"] for table in view["tables"] if table["name"] == name), [])


def texts(row: Sequence[Any]) -> list[str]:
    return [cell if isinstance(cell, str) else cell.get("text", "") for cell in row]


def test_a_folder_without_runs_says_so(runs_dir: Path, results: Results) -> None:
    assert show(runs_dir)["title"] == "No runs yet"
    missing = show(runs_dir / "nowhere")
    assert missing["kind"] == "empty" and "is not there yet" in missing["problem"]


def test_the_latest_command_has_curves_with_intervals_and_methods(runs_dir: Path, results: Results) -> None:
    for seed, last in ((0, 0.5), (1, 0.7)):
        add(results, [0.1, last], seed=seed, rounds=2, client__optimizer=SGD)
    add(results, [0.2, 0.4], rounds=2, client__optimizer=SAM)
    view = show(runs_dir)
    assert (view["title"], view["alike"]) == ("fedsam run <a>.toml", ["cifar10, 2 rounds"])
    (panel,) = view["chart"]["panels"]
    assert panel["title"] == "4 clients" and view["chart"]["measure"] == "test_accuracy"
    half = 12.7062 * 0.1  # Student's t with one degree of freedom, times the standard error
    assert panel["lines"][0]["label"] == "sgd"
    assert panel["lines"][0]["points"] == [[1, 0.1, 0.0, 2], [2, 0.6, pytest.approx(half, rel=1e-4), 2]]
    assert panel["lines"][1] == {"label": "sam", "style": 1, "points": [[1, 0.2, None, 1], [2, 0.4, None, 1]]}
    methods = [texts(row)[:4] for row in rows_of(view, "methods")]
    assert methods == [["sgd", "60.00 ± 127.06 %", "2", "2"], ["sam", "40.00 %", "2", "1"]]
    assert view["reports"] == 3 and view["progress"]["fraction"] == 1.0


def test_another_measure_can_be_asked_for_and_what_was_not_taken_is_not_offered(runs_dir: Path, results: Results) -> None:
    add(results, [0.1, 0.5], losses=2.5, measures={"class_accuracy_3": 0.5, "hessian_trace": 9.0})
    chart = show(runs_dir, measure="test_loss")["chart"]
    assert chart["measures"] == ["test_accuracy", "train_loss", "test_loss", "hessian_trace"]
    assert chart["panels"][0]["lines"][0]["points"] == [[1, 2.5, None, 1], [2, 2.5, None, 1]] and not chart["percent"]
    assert show(runs_dir, measure="nonsense")["chart"]["measure"] == "test_accuracy"


def test_the_training_loss_is_shown_where_runs_are_evaluated_once(runs_dir: Path, results: Results) -> None:
    add(results, [None, None, 0.5])
    assert show(runs_dir)["chart"]["measure"] == "train_loss"


def test_runs_at_work_tell_how_they_go(runs_dir: Path, results: Results) -> None:
    run = add(results, [0.1, 0.3], status="running", rounds=8, client__optimizer=SAM)
    failed = ClientRow(client=3, examples=0, steps=0, train_loss=1.0, seconds=0.0, status="ValueError: no\nsecond line")
    results.append_round(replace(row(run, 3, {"retries": 2.0}, 100), failures=1, clients=(failed,)))
    view = show(runs_dir)
    ((method, clients, seed, rounds, left, accuracy, cohort, busy, seconds, failures, retries),) = rows_of(view, "at-work")
    assert (method, clients, seed, rounds) == ("sam x fedavg", "4", "0", {"text": "3/8", "bar": 3 / 8}) or method == "sam"
    assert (left, accuracy, cohort, busy) == ("5.00 s", "30.00 %", "2", "2.0 of 4")
    assert (seconds, failures, retries) == ("1.00", "1", "2")
    assert view["utilisation"] == {"at_work": 1, "cohort": 2, "busy": 2.0, "actors": 4, "failures": 1, "retries": 2}
    assert [texts(each)[2:] for each in rows_of(view, "clients")] == [["3", "3", "ValueError: no"]]


def test_the_plan_of_a_command_tells_how_far_it_is(runs_dir: Path, results: Results) -> None:
    done, running = add(results, [0.1, 0.2], rounds=2), add(results, [0.1], status="running", rounds=2, seed=1)
    works = [PlannedWork(work=2.0, rounds=2, run=run) for run in (done, running, None, None)]
    add_plan(results.path, works)
    progress = show(runs_dir)["progress"]
    assert (progress["fraction"], progress["ended"], progress["runs"]) == (3 / 8, 1, 4)


def test_runs_that_failed_or_cannot_be_read_are_named(runs_dir: Path, results: Results) -> None:
    add(results, [0.5])
    failed = add(results, [0.1], status="failed", error="client 3 failed\nTraceback", seed=1)
    diverged = add(results, [0.1], status="diverged", error="loss inf", seed=2)
    pruned = add(results, [0.2], seed=3)
    with closing(sqlite3.connect(results.path, isolation_level=None)) as connection:
        connection.execute("PRAGMA ignore_check_constraints = ON")
        connection.execute("UPDATE runs SET status = 'unheard of' WHERE id = ?", (pruned,))
    view = show(runs_dir)
    found = [(row[0], row[3], texts(row)[4]) for row in rows_of(view, "failed")]
    assert found == [
        (diverged, {"text": "diverged", "tone": "diverged"}, "loss inf"),
        (failed, {"text": "failed", "tone": "failed"}, "client 3 failed"),
    ]
    assert view["notes"] == ["1 run cannot be read and is in no curve"]
    assert rows_of(view, "runs")[0][6] == {"text": "unheard of", "tone": "unheard of"}


def test_the_command_at_work_comes_before_the_newest(runs_dir: Path, results: Results) -> None:
    running, other = add(results, [0.1], status="running"), add(results, [0.1], seed=1)
    set_command(results, "fedsam compare a.toml", [running])
    set_command(results, "fedsam run b.toml", [other])
    assert show(runs_dir)["title"] == "fedsam compare a.toml"
    results.finish_run(running, "finished")
    assert show(runs_dir)["title"] == "fedsam run b.toml"


def test_sets_are_listed_in_pages_and_lead_to_their_runs(runs_dir: Path, results: Results) -> None:
    runs = [add(results, [0.1], seed=seed) for seed in range(SETS + 2)]
    for number, run in enumerate(runs):
        set_command(results, f"fedsam run {number}.toml", [run])
    (table,) = show(runs_dir, view="command", page=2)["tables"]
    assert table["pages"] == {"page": 2, "pages": 2, "total": SETS + 2}
    assert [row[0]["text"] for row in table["rows"]] == ["fedsam run 1.toml", "fedsam run 0.toml"]
    link = table["rows"][0][0]["href"]
    view = show(runs_dir, view="set", key=link.removeprefix("#set="))
    assert view["title"] == "fedsam run 1.toml" and [row[0] for row in rows_of(view, "runs")] == [runs[1]]
    (alike,) = show(runs_dir, view="alike")["tables"]
    assert [texts(row)[:3] for row in alike["rows"]] == [["cifar10, 8 rounds", "cifar10", str(SETS + 2)]]
    assert show(runs_dir, view="set", key="command-0")["title"] == "These runs are not there any more"


def test_a_set_shows_its_newest_runs(runs_dir: Path, results: Results, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(set_view, "MOST_RUNS", 2)
    runs = [add(results, [0.1], seed=seed) for seed in range(3)]
    view = show(runs_dir)
    assert [row[0] for row in rows_of(view, "runs")] == [runs[2], runs[1]] and view["notes"] == ["the newest 2 of 3 runs"]


def test_runs_are_searched(runs_dir: Path, results: Results) -> None:
    add(results, [0.1], client__optimizer=SGD)
    wanted = add(results, [0.1, 0.25], status="failed", client__optimizer=SAM)
    view = show(runs_dir, view="runs", search="SAM fail")
    assert view["title"] == "1 run" and [texts(row)[:2] for row in rows_of(view, "runs")] == [[wanted, "sam x fedavg"]]
    assert rows_of(view, "runs")[0][6] == "25.00 %"


def test_studies_have_a_table_and_final_runs_the_curves(runs_dir: Path, results: Results) -> None:
    settings = {"metric": "validation_accuracy", "trials": 3, "seeds": [1000], "space": {"client.optimizer.lr": [0.1, 0.2, 0.3]}}
    results.record_study("s", "sgd, 4 clients", settings)
    for number, (lr, value, pruned) in enumerate(((0.1, 0.5, False), (0.2, 0.7, False), (0.3, 0.9, True)), 1):
        run = add(results, [0.1, 0.2], seed=1000 + number, client__optimizer={"name": "sgd", "lr": lr})
        results.record_trial("s", number, run, {"client.optimizer.lr": lr}, value, pruned=pruned)
    view = show(runs_dir)
    assert [texts(each) for each in rows_of(view, "tuning")] == [["sgd, 4 clients", "3/3", "1", "70.00 %", "lr=0.2"]]
    assert sum(len(panel["lines"]) for panel in view["chart"]["panels"]) == 3  # of the trials, while there is nothing else
    add(results, [0.2, 0.4], seed=0, client__optimizer=SAM)
    view = show(runs_dir)
    assert [line["label"] for panel in view["chart"]["panels"] for line in panel["lines"]] == ["sam"]


def test_tuned_settings_are_no_part_of_a_method(runs_dir: Path, results: Results) -> None:
    for clients, lr in ((4, 0.1), (9, 0.2)):
        study, run = f"s{clients}", add(results, [0.2], client__optimizer={"name": "sgd", "lr": lr}, data__clients=clients)
        results.record_study(
            study, "sgd", {"metric": "validation_loss", "trials": 1, "seeds": [1000], "space": {"client.optimizer.lr": [lr]}}
        )
        results.record_tuned(run, study)
    (methods,) = [table for table in show(runs_dir)["tables"] if table["name"] == "methods"]
    assert [texts(row)[0] for row in methods["rows"]] == ["sgd", "sgd"]


def test_a_trial_that_diverged_is_not_the_best(runs_dir: Path, results: Results) -> None:
    settings = {"metric": "validation_loss", "trials": 2, "seeds": [1000], "space": {"client.optimizer.lr": [0.1, 9.0]}}
    results.record_study("s", "sgd, 4 clients", settings)
    run = add(results, [0.1], client__optimizer={"name": "sgd", "lr": 9.0})
    results.record_trial("s", 1, run, {"client.optimizer.lr": 9.0}, float("inf"))
    assert [texts(each) for each in rows_of(show(runs_dir), "tuning")] == [["sgd, 4 clients", "1/2", "0", "–", "–"]]
