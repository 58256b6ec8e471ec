"""The results file: what goes in comes out, whatever happens to the process that wrote it."""

from __future__ import annotations

import errno
import functools
import json
import math
import os
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest

from fedsam.config import ConfigError, Experiment, parse
from fedsam.results import processes
from fedsam.results import rows as module
from fedsam.results.config_hash import config_hash
from fedsam.results.ownership import RunTakenError
from fedsam.results.provenance import Provenance
from fedsam.results.rows import ClientRow, Row, cumulative
from fedsam.results.store import DuplicateRunError, Results

PROVENANCE = Provenance(versions={"python": "3.11", "torch": "2.9"}, git_commit="abc", device="a CPU", command="fedsam run a.toml")
HOLDINGS = np.array([[3, 0, 1], [0, 5, 0]])


def start(results: Results, **settings: object) -> str:
    experiment = parse({"name": "mine", "seed": 4, **settings})
    return results.start_run(experiment, experiment.dump(), dataset="digits", label_distribution=HOLDINGS, provenance=PROVENANCE)


def start_once(results: Results, **options: bool) -> str:
    experiment = parse({"name": "mine", "seed": 4})
    return results.start_run(
        experiment, experiment.dump(), dataset="digits", label_distribution=HOLDINGS, provenance=PROVENANCE, once=True, **options
    )


def row(run: str, round: int, **changes: object) -> Row:
    values = {name: 10 * round for name in ("cohort", "failures", "examples", "steps", "gradient_evaluations", "forward_evaluations")}
    values |= {"bytes_down": 100, "bytes_up": 50, "peak_rss": 1000 - round}
    seconds = {"client_seconds": 0.5, "wall_seconds": 0.25, "evaluate_seconds": 0.125}
    return replace(Row(run=run, round=round, **values, **seconds, train_loss=1.5), **changes)  # type: ignore[arg-type]


@pytest.fixture
def results(runs_dir: Path) -> Iterator[Results]:
    with Results.open(runs_dir) as results:
        yield results


def test_rows_come_back_as_they_went_in(results: Results) -> None:
    run = start(results)
    clients = (
        ClientRow(client=3, examples=5, steps=2, train_loss=0.5, seconds=1.0),
        ClientRow(client=7, examples=0, steps=0, train_loss=1.0, seconds=0.0, status="ran out of memory"),
    )
    rows = [
        row(run, 1, measures={"test_loss": 2.0, "test_accuracy": 0.25}, clients=clients),
        row(run, 2, peak_device_memory=2**40),
    ]
    for one in reversed(rows):
        results.append_round(one)
    assert results.rounds(run) == rows
    assert results.curve(run, "test_accuracy") == [(1, 0.25)]
    assert results.curve(run, "nothing") == []


def test_a_run_is_deleted_with_its_places_among_trials(results: Results) -> None:
    trial, final = start(results), start(results)
    for run in (trial, final):
        results.finish_run(run, "finished")
    results._connection.execute("INSERT INTO studies VALUES ('s', 'sam, 5 clients', '{}')")
    results._connection.execute("INSERT INTO trials VALUES ('s', 1, ?, '{}', 0.5, 0)", (trial,))
    results._connection.execute("INSERT INTO tuned VALUES (?, 's')", (final,))
    for run in (trial, final):
        results.delete(run)
    assert [results._connection.execute(f"SELECT count(*) FROM {name}").fetchone()[0] for name in ("trials", "tuned", "runs")] == [0, 0, 0]


@pytest.mark.parametrize("queries", [1, 2])
def test_runs_that_others_start_and_delete_meanwhile_are_not_taken_for_damaged(
    results: Results, runs_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], queries: int
) -> None:
    kept, deleted, select, asked = start(results), start(results), results._select, list[str]()
    results.finish_run(deleted, "finished")

    def meanwhile(query: str, parameters: Sequence[object] = ()) -> list[sqlite3.Row]:
        rows = select(query, parameters)
        asked.append(query)
        if len(asked) == queries:
            with Results.open(runs_dir) as others:
                start(others)
                others.delete(deleted)
        return rows

    monkeypatch.setattr(results, "_select", meanwhile)
    assert kept in [run.id for run in results.runs()]
    assert len(asked) >= queries
    assert results.left_out == {}
    assert capsys.readouterr().err == ""


def test_numpy_scalars_are_plain_numbers_in_the_file(results: Results) -> None:
    run = start(results)
    measures = {"test_loss": np.float32(0.5)}
    client = ClientRow(client=np.int64(1), examples=np.int64(2), steps=3, train_loss=np.float32(0.5), seconds=1.0)  # type: ignore[arg-type]
    results.append_round(row(run, 1, examples=np.int64(7), train_loss=np.float32(0.25), measures=measures, clients=(client,)))
    (one,) = results.rounds(run)
    assert (one.examples, one.train_loss, one.measures["test_loss"], one.clients[0].train_loss) == (7, 0.25, 0.5, 0.5)


def test_a_diverged_run_stays_readable(results: Results) -> None:
    run = start(results)
    client = ClientRow(client=0, examples=1, steps=1, train_loss=math.nan, seconds=1.0)
    results.append_round(row(run, 1, train_loss=math.nan, measures={"test_loss": math.nan, "norm": math.inf}, clients=(client,)))
    results.append_round(row(run, 2))
    first, second = results.rounds(run)
    assert math.isnan(first.train_loss) and math.isnan(first.measures["test_loss"]) and math.isnan(first.clients[0].train_loss)
    assert first.measures["norm"] == math.inf
    assert second.measures == {}  # not measured is not the same as not a number
    assert [round for round, _ in results.curve(run, "test_loss")] == [1]


def test_holdings_come_back_with_empty_clients_and_classes(results: Results) -> None:
    experiment = Experiment()
    sparse = np.zeros((4, 5), dtype=np.int64)
    sparse[1, 2] = 9
    for counts in (HOLDINGS, sparse, np.zeros((2, 3), dtype=np.int64)):
        run = results.start_run(experiment, experiment.dump(), dataset="digits", label_distribution=counts, provenance=PROVENANCE)
        np.testing.assert_array_equal(results.label_distribution(run), counts)
    (held,) = results._connection.execute("SELECT count(*) FROM holdings WHERE examples = 0").fetchone()
    assert held == 0


def test_a_run_says_what_ran_and_how_it_ended(results: Results) -> None:
    run = start(results)
    (one,) = results.runs()
    assert (one.id, one.name, one.status, one.seed, one.error, one.finished) == (run, "mine", "running", 4, None, None)
    assert (one.dataset, one.dataset_wanted, one.clients, one.classes) == ("digits", "cifar10", 2, 3)
    assert (one.versions, one.git_commit, one.device, one.command) == tuple(getattr(PROVENANCE, f.name) for f in fields(PROVENANCE))
    assert one.config == json.loads(json.dumps(parse({"name": "mine", "seed": 4}).dump()))
    results.finish_run(run, "failed", "client 3 diverged")
    (one,) = results.runs()
    assert (one.status, one.error) == ("failed", "client 3 diverged")
    assert one.finished is not None and one.finished >= one.started


def test_ids_differ_even_within_a_second(results: Results) -> None:
    ids = [start(results) for _ in range(20)]
    assert len(set(ids)) == 20
    assert [run.id for run in results.runs()] == ids


def test_a_round_is_kept_whole_or_not_at_all(results: Results) -> None:
    run = start(results)
    client = ClientRow(client=1, examples=1, steps=1, train_loss=1.0, seconds=1.0)
    with pytest.raises(ValueError, match=rf"{run}.*round 1: cannot be added"):
        results.append_round(row(run, 1, measures={"test_loss": 1.0}, clients=(client, client)))
    assert results.rounds(run) == []
    results.append_round(row(run, 1))
    with pytest.raises(ValueError, match="round 1: cannot be added"):
        results.append_round(row(run, 1, train_loss=9.0))
    assert results.rounds(run) == [row(run, 1)]


def test_a_run_that_was_never_started_is_refused(results: Results) -> None:
    with pytest.raises(ValueError, match="'nobody' is not at work in this process"):
        results.append_round(row("nobody", 1))
    with pytest.raises(ValueError, match="'nobody' is not at work"):
        results.finish_run("nobody", "finished")


def test_columns_of_the_tables_are_the_fields_of_the_rows(results: Results) -> None:
    columns = {
        table: {entry["name"] for entry in results._connection.execute(f"PRAGMA table_info({table})")}
        for table in ("runs", "rounds", "clients")
    }
    assert columns["rounds"] == set(module.ROUND_COLUMNS)
    assert columns["clients"] == {"run", "round", *module.CLIENT_COLUMNS}
    assert columns["runs"] == {f.name for f in fields(module.Run)} | {"pid", "born", "heartbeat"}


def test_find_takes_ids_and_their_beginnings(results: Results) -> None:
    first, second = start(results), start(results)
    assert [run.id for run in results.find([second, first, second])] == [second, first]
    assert {run.id for run in results.find([first[:8]])} >= {first}
    assert results.find([]) == []


def test_find_names_the_nearest_run(results: Results) -> None:
    run = start(results)
    wrong = run[:-1] + ("0" if run[-1] != "0" else "1")
    with pytest.raises(ConfigError, match=rf"run: '{wrong}' is not known, did you mean '{run}'\?"):
        results.find([wrong])
    with pytest.raises(ConfigError, match="run: '' is not known"):
        results.find([""])


def test_what_a_killed_process_wrote_is_kept_and_its_run_shown_as_interrupted(runs_dir: Path) -> None:
    code = f"""
import os, signal, sys
sys.path.insert(0, {str(Path(__file__).parents[3])!r})
from pathlib import Path
from tests.fedsam.results.test_store import *
results = Results.open(Path({str(runs_dir)!r}))
run = start(results)
results.append_round(row(run, 1))
os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -9
    with Results.open(runs_dir) as results:
        mine = start(results)
        killed, alive = results.runs()
        assert (killed.status, alive.status, alive.id) == ("interrupted", "running", mine)
        assert results.rounds(killed.id) == [row(killed.id, 1)]


def test_several_writers_at_once(runs_dir: Path) -> None:
    ready, failures = threading.Barrier(6), []

    def write() -> None:
        ready.wait()  # all of them begin the file
        try:
            with Results.open(runs_dir) as results:
                run = start(results)
                for round in range(1, 6):
                    results.append_round(row(run, round))
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=write) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    with Results.open(runs_dir) as results:
        assert [len(results.rounds(run.id)) for run in results.runs()] == [5] * 6
    assert [path.name for path in runs_dir.iterdir()] == ["fedsam.db"]


def test_many_that_begin_the_file_at_once(runs_dir: Path) -> None:
    def begin(folder: Path) -> str:
        ready.wait()
        with Results.open(folder):
            return folder.name

    ready = threading.Barrier(12)
    with ThreadPoolExecutor(12) as threads:
        for attempt in range(20):  # SQLite does not wait where a file begins its write-ahead log: one in eight failed
            assert set(threads.map(begin, [runs_dir / str(attempt)] * 12)) == {str(attempt)}
            with Results.open(runs_dir / str(attempt)) as results:
                assert results._connection.execute("PRAGMA journal_mode").fetchone()[0] == "wal"


@pytest.mark.parametrize("silence", [None, 10.0, 3600.0])  # seconds since the last heartbeat; None: its fedsam wrote none
def test_a_run_that_was_killed_on_another_machine_is_known_by_its_silence_and_can_be_forgotten(
    results: Results, silence: float | None
) -> None:
    run = start(results)
    heartbeat = None if silence is None else time.time() - silence
    results._connection.execute("UPDATE runs SET host = 'gone', heartbeat = ?", (heartbeat,))
    (one,) = results.runs()
    assert (one.status, one.host) == ("interrupted" if silence == 3600 else "running", "gone")
    again = functools.partial(start_once, results)
    if silence == 3600:
        with pytest.raises(ConfigError, match=f"run {run} is interrupted, not at work"):
            results.forget(run)
    else:
        with pytest.raises(DuplicateRunError, match=f"run {run} is the same experiment: it is at work on gone"):
            again()
        assert results.forget(run[:-1]).id == run
        assert [(one.status, one.error) for one in results.runs()] == [("interrupted", "its process on gone is gone")]
    assert again() == run
    assert [one.status for one in results.runs()] == ["running"]


def test_a_run_that_diverged_is_not_made_again(results: Results) -> None:
    run = start(results)
    results.finish_run(run, "diverged", "round 3 diverged")
    with pytest.raises(DuplicateRunError, match=f"run {run} is the same experiment: it has diverged"):
        start_once(results)
    assert [(one.id, one.status, one.error) for one in results.runs()] == [(run, "diverged", "round 3 diverged")]


def test_restart_continues_runs_on_other_machines_alone(results: Results) -> None:
    run = start(results)
    with pytest.raises(DuplicateRunError):
        start_once(results, restart=True)
    with pytest.raises(ConfigError, match=f"run {run} is at work on this machine"):
        results.forget(run)
    results._connection.execute("UPDATE runs SET host = 'gone'")
    assert start_once(results, restart=True) == run


def test_a_process_that_was_silent_for_so_long_that_another_took_its_run_writes_nothing_more(results: Results) -> None:
    run = start(results)
    results.append_round(row(run, 1))
    results._connection.execute("UPDATE runs SET pid = pid + 1, born = '1'")  # the other one took it, and has ended since
    for write in (lambda: results.append_round(row(run, 2)), lambda: results.finish_run(run, "finished")):
        with pytest.raises(RunTakenError, match="another process has taken it"):
            write()
    assert len(results.rounds(run)) == 1
    assert start_once(results) == run
    results.append_round(row(run, 1, cohort=7), replace=True)
    results.append_round(row(run, 2))
    assert [one.cohort for one in results.rounds(run)] == [7, 20]


def test_a_run_is_continued_where_its_numbers_depend_on_the_same(results: Results) -> None:
    run = start(results)
    results.append_round(row(run, 1))
    results.finish_run(run, "failed", "a client")
    other = replace(PROVENANCE, versions=PROVENANCE.versions | {"torch": "3.0"})
    experiment = parse({"name": "mine", "seed": 4})
    begin = functools.partial(results.start_run, experiment, experiment.dump(), dataset="digits", label_distribution=HOLDINGS, once=True)
    new = begin(provenance=other)
    assert new != run
    assert [(one.id, one.status) for one in results.runs()] == [(run, "failed"), (new, "running")]  # nothing is deleted
    results.finish_run(new, "interrupted")
    assert begin(provenance=PROVENANCE) == run
    assert [(one.status, one.error, one.finished) for one in results.find([run])] == [("running", None, None)]
    assert len(results.rounds(run)) == 1


def test_a_run_at_work_is_heard_of_again_and_again(results: Results, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "HEARTBEAT_SECONDS", 0.001)
    run, heard = start(results), threading.Event()
    results._connection.execute("UPDATE runs SET heartbeat = 0")
    with processes.heartbeat(results.path, run):
        while not results._connection.execute("SELECT heartbeat FROM runs").fetchone()[0] and not heard.wait(0.001):
            pass
    (beaten,) = results._connection.execute("SELECT heartbeat FROM runs").fetchone()
    assert beaten == pytest.approx(time.time(), abs=3600)


def test_an_empty_file_is_a_new_one(runs_dir: Path) -> None:
    runs_dir.mkdir()
    (runs_dir / "fedsam.db").touch()
    with pytest.raises(ConfigError, match=r"it holds no fedsam\.db"):
        Results.open(runs_dir, create=False)
    with Results.open(runs_dir) as results:
        run = start(results)
        assert [one.id for one in results.runs()] == [run]
        assert results._connection.execute("PRAGMA journal_mode").fetchone()[0] == "wal"


def test_a_file_that_cannot_be_made_for_want_of_space_is_not_left_behind(runs_dir: Path) -> None:
    code = f"""
import resource, signal, sys
sys.path.insert(0, {str(Path(__file__).parents[3])!r})
from fedsam.results.store import Results
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))
try:
    Results.open({str(runs_dir)!r})
except ValueError as error:
    print(error)
"""
    said = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert "runs_dir" in said and "must be a folder that can be written" in said
    assert list(runs_dir.iterdir()) == []
    with Results.open(runs_dir) as results:
        start(results)


def test_a_file_system_without_hard_links_will_do(runs_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*args: object, **others: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refused)
    with Results.open(runs_dir) as results:
        start(results)


def test_a_reader_does_not_begin_a_file(runs_dir: Path) -> None:
    with pytest.raises(ConfigError, match=r"runs_dir: '.*runs' is not allowed: it holds no fedsam.db"):
        Results.open(runs_dir, create=False)
    assert not runs_dir.exists()


def test_files_of_others_are_refused(runs_dir: Path) -> None:
    runs_dir.mkdir()
    path = runs_dir / "fedsam.db"
    path.write_text("not a database, but long enough to be looked at" * 100)
    with pytest.raises(ConfigError, match="it is no SQLite file"):
        Results.open(runs_dir)
    path.unlink()
    other = sqlite3.connect(path)
    other.execute("CREATE TABLE theirs (a)")
    other.close()
    with pytest.raises(ConfigError, match="another program wrote"):
        Results.open(runs_dir)


def test_a_newer_file_is_refused(runs_dir: Path) -> None:
    with Results.open(runs_dir) as results:
        results._connection.execute("PRAGMA user_version = 99")
    with pytest.raises(ConfigError, match="its tables have version 99, and this fedsam reads version 6"):
        Results.open(runs_dir)


def test_a_file_in_the_place_of_the_folder_is_refused(runs_dir: Path) -> None:
    runs_dir.write_text("")
    with pytest.raises(ConfigError, match=r"runs_dir: .*must be a folder that can be written"):
        Results.open(runs_dir)


def test_cumulative_adds_costs_and_keeps_peaks() -> None:
    rows = [row("a", 1, peak_device_memory=5, measures={"x": 1.0}), row("a", 2), row("a", 3, peak_device_memory=9)]
    total = cumulative(rows)
    assert [one.round for one in total] == [1, 2, 3]
    assert [one.gradient_evaluations for one in total] == [10, 30, 60]
    assert [one.client_seconds for one in total] == [0.5, 1.0, 1.5]
    assert [one.peak_rss for one in total] == [999, 999, 999]
    assert [one.peak_device_memory for one in total] == [5, 5, 9]
    assert total[0].measures == {"x": 1.0}
    assert cumulative([]) == []
    assert cumulative([row("a", 1), row("a", 2)])[-1].peak_device_memory is None


def test_hash_ignores_seed_and_places_only() -> None:
    plain = parse({"seed": 1, "runs_dir": "a", "data": {"root": "/x"}}).dump()
    assert config_hash(plain) == config_hash(parse({"seed": 2, "runs_dir": "b"}).dump())
    assert config_hash(plain) != config_hash(parse({"rounds": 31}).dump())
    assert config_hash(plain) == config_hash(parse({"compute": {"actors": 3}}).dump())
    assert len({config_hash(parse({"compute": compute}).dump()) for compute in ({}, {"shard_size": 2}, {"shard_size": 3})}) == 3
    assert len(config_hash(plain)) == 12


def test_ten_thousand_clients_are_kept_in_a_moment(results: Results) -> None:
    counts = np.random.default_rng(0).integers(0, 5, size=(10_000, 10))
    experiment = Experiment()
    run = results.start_run(experiment, experiment.dump(), dataset="cifar10", label_distribution=counts, provenance=PROVENANCE)
    np.testing.assert_array_equal(results.label_distribution(run), counts)
