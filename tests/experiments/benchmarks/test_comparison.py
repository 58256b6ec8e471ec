"""`fedsam bench`: all ways do the same work, it is measured from outside, and shown."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from subprocess import CalledProcessError

import numpy as np
import pytest
from rich.console import Console

from experiments.benchmarks.commands import cpu_seconds
from experiments.benchmarks.comparison import Plan, Run, compare, differences, summaries
from experiments.benchmarks.comparison_figure import draw
from experiments.benchmarks.comparison_table import as_json, commands_table, growth_table, workload_table
from experiments.benchmarks.contenders import WAYS, chosen_ways
from experiments.benchmarks.files import Files
from experiments.benchmarks.measurement import Measurement, WayError, measure
from experiments.benchmarks.ways import fedsam, flower
from experiments.benchmarks.ways.plain import Trainer
from experiments.benchmarks.ways.task import Task
from experiments.benchmarks.workloads import GROWTH, WORKLOADS, Workload, noop, training
from experiments.callbacks.callback import Callback
from experiments.running.server_app import run
from fedsam.grid.inline import InlineGrid
from fedsam.imports import ROOT

TINY = training("tiny", "LeNet-5", "lenet5", clients=4, cohort=4, examples=60)  # a last batch of 10
SOME = training("some", "LeNet-5", "lenet5", clients=8, cohort=4, examples=5)
FOUND = Measurement(start_seconds=4.0, round_seconds=(1.0, 2.0, 9.0), cpu_seconds=0.5, memory=10**9, other_load=0.0)


def tiny_task(folder: Path, workload: Workload = TINY, rounds: int = 1) -> Task:
    return Files(folder, seed=3, actors=2).task(WAYS["inline"], workload, rounds)


@pytest.mark.parametrize("workload", [TINY, SOME, noop(4, 4, size=100)], ids=["all", "some", "noop"])
def test_all_ways_do_the_same_work(tmp_path: Path, workload: Workload) -> None:
    task = tiny_task(tmp_path, workload)
    start = w = task.arrays["w"]
    trainer = Trainer(task)
    for round in task.rounds_to_run():
        w = trainer.total(round, task.cohort_of(round), w) / task.cohort
    assert np.array_equal(start, w) == (not workload.trains)
    np.testing.assert_allclose(run(fedsam.experiment(task), Callback()).w, w, rtol=0, atol=1e-6)
    if workload.cohort == workload.clients:  # else Flower draws its cohort at random
        seen: list[int] = []
        np.testing.assert_allclose(
            flower.train_on(InlineGrid(partial(flower.client_app, task), task.clients, {}), task, seen.append), w, rtol=0, atol=1e-6
        )
        assert seen == [1, 2]


@pytest.mark.slow
@pytest.mark.ray
def test_all_ways_that_are_installed_run(tmp_path: Path) -> None:
    plan = Plan(workloads=[TINY], ways=chosen_ways([name for name in WAYS if name != "pfl"]), rounds=3, repeats=1, pythons={})
    runs = compare(plan, Files(tmp_path, 0, 2), lambda _: None, pytest.fail)
    assert [run.way for run in runs] == list(plan.ways)
    found = differences(runs, TINY, plan.ways)
    assert set(found) == {"ray", "inline", "flower"}
    assert max(found.values()) < 1e-6
    assert all(len(run.measurement.round_seconds) == 2 and min(run.measurement.round_seconds) > 0 for run in runs)
    assert all(run.measurement.cpu_seconds > 0 and run.measurement.memory > 10**8 for run in runs)


WAY = """
import subprocess, sys, time
from experiments.benchmarks.ways.task import Clock, Task
task = Task.read(sys.argv[1])
clock = Clock(task)
child = subprocess.Popen([sys.executable, "-c", '''
import time
while input():
    until = time.process_time() + 0.1
    while time.process_time() < until: pass
    print(flush=True)
'''], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
for round in task.rounds_to_run():
    print("round", file=child.stdin, flush=True)
    child.stdout.readline()
    clock.mark(round)
    if round == {failing}: raise RuntimeError("no more rounds")
print(file=child.stdin, flush=True)
"""


def test_a_run_is_measured_with_all_its_processes(tmp_path: Path) -> None:
    task, seen = tiny_task(tmp_path, rounds=3), list[int]()
    task.write(tmp_path / "task.json")
    way = partial(measure, task=task, folder=ROOT, log=tmp_path / "log")
    found = way([sys.executable, "-c", WAY.replace("{failing}", "0"), str(tmp_path / "task.json")], mark=seen.append)
    assert seen == [1, 2, 3]
    assert len(found.round_seconds) == 2
    assert found.cpu_seconds * task.cohort * 2 > 0.15  # that of the child; the clock ticks each 0.01 s
    assert found.memory > 10**7
    with pytest.raises(WayError, match=r"(?s)ended with exit code 1:.*no more rounds"):
        way([sys.executable, "-c", WAY.replace("{failing}", "2"), str(tmp_path / "task.json")])


def fake_runs(*workloads: Workload) -> tuple[Plan, list[Run]]:
    plan = Plan(workloads=workloads, ways=WAYS, rounds=4, repeats=1, pythons={})
    slower = {"ray": 1.5, "sam": 3.0, "msam": 1.53}
    times = {name: replace(FOUND, round_seconds=tuple(slower.get(name, 1) * s for s in FOUND.round_seconds)) for name in WAYS}
    return plan, [Run(workload, name, times[name], np.full(3, float(name == "pfl"))) for workload, name in plan.runs()]


def test_a_run_that_fails_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def measured(command: object, task: Task, **_: object) -> Measurement:
        if task.grid == "ray":
            raise WayError("ended with exit code 1")
        np.save(task.weights, np.zeros(3))
        return FOUND

    monkeypatch.setattr("experiments.benchmarks.comparison.measure", measured)
    plan, failures = Plan(workloads=[TINY], ways=chosen_ways(["ray", "inline"]), rounds=3, repeats=2, pythons={}), list[str]()
    runs = compare(plan, Files(tmp_path, 0, 2), lambda _: None, failures.append)
    assert [run.way for run in runs] == ["inline"] * 2
    assert failures == [f"run {number}/4: {TINY.name}, ray: ended with exit code 1" for number in (1, 3)]
    Console(width=80).print(growth_table(GROWTH, summaries(runs)))  # which has no run
    draw(plan, summaries(runs), GROWTH)


def test_the_floor_imports_nothing_of_fedsam_but_what_is_copied(tmp_path: Path) -> None:
    code = "import runpy, sys; runpy.run_module('experiments.benchmarks.ways.__main__'); from experiments.benchmarks.ways import floor"
    call = [sys.executable, "-c", f"{code}; print(sys.modules['experiments'].__path__)"]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    bare = Files(tmp_path, 0, 2).bare_modules()
    done = subprocess.run(call, cwd=bare, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr, str(bare) in done.stdout) == (0, "", True)


def test_tables_show_ratios_to_the_floor_and_to_sgd(capsys: pytest.CaptureFixture[str]) -> None:
    plan, runs = fake_runs(WORKLOADS["lenet5-10x500"], WORKLOADS["noop-100000"])
    for workload in plan.workloads:
        Console(width=80).print(workload_table(plan, workload, runs, summaries(runs)))
    out = capsys.readouterr().out
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert "fedsam, Ray actors 3000 1.50 500 1.00 4.00 1.00 1.00 GB" in lines
    assert "Flower's runtime - - - - - - -" in lines  # with 100,000 clients it is not asked
    assert "with SAM 2.00, with MSAM 1.02" in out
    assert "by at most 1e+00 (ray, inline, pfl)" in out
    assert "Other programs" not in out
    assert max(map(len, out.splitlines())) <= 80


def test_growth_json_and_figure_have_all_that_was_measured(capsys: pytest.CaptureFixture[str]) -> None:
    noops = {workload.name: workload for points in GROWTH.values() for workload in points.values()}
    plan, runs = fake_runs(WORKLOADS["lenet5-10x500"], *noops.values())
    found = summaries(runs)
    Console(width=80).print(growth_table(GROWTH, found))
    Console(width=80).print(commands_table({"--help": 0.6}))
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "registered clients 100 k 3000 500 4.00 1.00 GB" in lines
    assert "fedsam --help 0.60" in lines
    written = as_json(plan, runs, found, {"--help": 0.6}, {"seed": 0})
    assert len(written["runs"]) == len(runs)
    assert {workload["name"] for workload in written["workloads"]} == {"lenet5-10x500", *noops}
    figure = draw(plan, found, GROWTH)
    assert [axes.get_title("left") for axes in figure.axes][-4:] == [f"growth: {what}" for what in GROWTH]


def test_cpu_time_of_a_command_is_measured_or_it_fails(tmp_path: Path) -> None:
    assert cpu_seconds("--version", tmp_path) > 0.05
    with pytest.raises(CalledProcessError):
        cpu_seconds("walk", tmp_path)
