from __future__ import annotations

from contextlib import closing
from pathlib import Path

import numpy as np

from experiments.callbacks.plans import PlannedWork, RunPlan, plan_of
from experiments.callbacks.recorded_plan import PlanRecorder
from fedsam.config import Experiment, parse
from fedsam.results.database import DATABASE_NAME, connect
from fedsam.results.ownership import own_process
from fedsam.results.store import Results
from tests.support.recorded import PROVENANCE, row


def experiments(runs_dir: Path) -> list[Experiment]:
    given = {"rounds": 4, "runs_dir": str(runs_dir), "data": {"clients": 2}}
    return [parse({**given, "seed": seed}) for seed in (0, 1, 2)]


def start(results: Results, experiment: Experiment) -> str:
    counts = np.ones((2, 3), dtype=int)
    return results.start_run(experiment, experiment.dump(), dataset="digits", label_distribution=counts, provenance=PROVENANCE)


def stored(runs_dir: Path, run: str) -> RunPlan | None:
    with closing(connect(runs_dir / DATABASE_NAME, "mode=ro")) as connection:
        return plan_of(connection, run)


def test_a_plan_is_kept_with_what_became_of_its_runs(runs_dir: Path) -> None:
    plan, recorder = experiments(runs_dir), PlanRecorder()
    recorder.plan(plan, [10.0, 20.0, 30.0])
    recorder.skipped(plan[1], "another process is at it")  # before there are results
    assert not runs_dir.exists()
    with Results.open(runs_dir) as results:
        first, last = start(results, plan[0]), start(results, plan[2])
    recorder.started(first, plan[0])
    recorder.started(last, plan[2])
    recorder.resumed(last, [row(last, round, {}, 1) for round in (1, 2)])
    found = stored(runs_dir, last)
    assert found is not None
    assert found.runs == (
        PlannedWork(work=10.0, rounds=4, run=first),
        PlannedWork(work=20.0, rounds=4, skipped=True),
        PlannedWork(work=30.0, rounds=4, run=last, rounds_before=2),
    )
    assert {"host": found.host, "pid": found.pid, "born": found.born} == own_process()
    assert stored(runs_dir, first) == found


def test_the_latest_plan_of_a_run_counts_and_work_is_rounds_where_no_seconds_are_known(runs_dir: Path) -> None:
    plan, recorder = experiments(runs_dir), PlanRecorder()
    with Results.open(runs_dir) as results:
        run = start(results, plan[0])
    assert stored(runs_dir, run) is None  # of a file that has no plans
    for experiments_now in (plan, plan[:1]):
        recorder.plan(experiments_now)
        recorder.started(run, plan[0])
    found = stored(runs_dir, run)
    assert found is not None and found.runs == (PlannedWork(work=4.0, rounds=4, run=run),)


def test_a_plan_that_cannot_be_written_disturbs_no_run(runs_dir: Path) -> None:
    plan, recorder = experiments(runs_dir), PlanRecorder()
    runs_dir.mkdir()
    (runs_dir / DATABASE_NAME).write_text("no database")
    recorder.plan(plan)
    recorder.started("some run", plan[0])
    assert (runs_dir / DATABASE_NAME).read_text() == "no database"


def test_a_trial_takes_the_next_place_of_the_plan(runs_dir: Path) -> None:
    plan, recorder = experiments(runs_dir), PlanRecorder()
    recorder.plan(plan)
    tried = plan[0].model_copy(update={"seed": 1000})
    with Results.open(runs_dir) as results:
        run = start(results, tried)
    recorder.trial(tried, "tuning sgd, 2 clients: trial 1/3")
    recorder.started(run, tried)
    found = stored(runs_dir, run)
    assert found is not None and [one.run for one in found.runs] == [run, None, None]
