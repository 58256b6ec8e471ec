from __future__ import annotations

import io

import pytest
from rich.console import Console as RichConsole

from experiments.running.progress import Callback, ConsoleCallback
from fedsam.config import Experiment, parse
from fedsam.results.rows import Row


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def row(round: int, run: str = "r1", **measures: float) -> Row:
    return Row(
        run=run,
        round=round,
        cohort=10,
        examples=500,
        steps=10,
        gradient_evaluations=500,
        forward_evaluations=0,
        bytes_down=1,
        bytes_up=1,
        client_seconds=1.0,
        wall_seconds=0.5,
        evaluate_seconds=0.1,
        peak_rss=1,
        train_loss=1.75,
        measures=measures,
    )


def experiments() -> list[Experiment]:
    return [parse({"name": name, "rounds": 3, "data": {"clients": 20}}) for name in ("first", "second")]


def play(callback: Callback, clock: Clock) -> None:
    plan = experiments()
    callback.plan(plan)
    callback.started("r1", plan[0])
    callback.warn("r1", "uses [digits] instead")
    for round in (1, 2, 3):
        clock.now += 2.0
        callback.round(row(round, test_accuracy=0.412, test_loss=1.634) if round > 1 else row(round))
    callback.finished("r1", "finished", None)
    callback.started("r2", plan[1])
    callback.finished("r2", "failed", "client 3 of round 1 diverged")


def test_plain_lines_without_a_terminal() -> None:
    out, clock = io.StringIO(), Clock()
    with ConsoleCallback(RichConsole(file=out, width=40), clock) as callback:
        play(callback, clock)
    assert out.getvalue().splitlines() == [
        "2 runs, 6 rounds",
        "run 1/2 first, 20 clients, seed 0 (r1)",
        "uses [digits] instead",
        "round 1/3 cohort 10 train loss 1.75 2 rounds/s ETA 2.50 s",
        "round 2/3 cohort 10 acc 41.2 % loss 1.63 0.5 rounds/s ETA 8.00 s",
        "round 3/3 cohort 10 acc 41.2 % loss 1.63 0.5 rounds/s ETA 6.00 s",
        "run 1/2 first, 20 clients finished after 6.00 s: acc 41.2 % loss 1.63",
        "run 2/2 second, 20 clients, seed 0 (r2)",
        "run 2/2 second, 20 clients failed after 0.00 s: client 3 of round 1 diverged",
    ]


def test_what_takes_long_before_the_first_round_is_named() -> None:
    said = {False: io.StringIO(), True: io.StringIO()}
    for terminal, out in said.items():
        with ConsoleCallback(RichConsole(file=out, width=120, force_terminal=terminal, legacy_windows=False)) as callback:
            callback.plan(experiments()[:1])
            callback.phase("starting Ray")
            if terminal:
                callback._live.refresh()
            callback.started("r1", experiments()[0])
            callback.phase("round 1 begins once an actor has started", "r1")
    assert said[False].getvalue().splitlines()[1:] == ["starting Ray", "run 1/1 first, 20 clients, seed 0 (r1)"]
    assert "starting Ray" in said[True].getvalue() and "round 1 begins once an actor has started" in said[True].getvalue()


def test_live_display_on_a_terminal() -> None:
    out, clock = io.StringIO(), Clock()
    with ConsoleCallback(RichConsole(file=out, width=120, force_terminal=True, legacy_windows=False), clock) as callback:
        play(callback, clock)
        callback.plan(experiments())
        callback.started("r3", experiments()[0])
        callback.round(row(1, "r3", test_accuracy=0.25, test_loss=2.0))
    shown = out.getvalue()
    assert "uses [digits] instead" in shown
    assert "cohort 10 acc 25.0 % loss 2 2 rounds/s" in shown
    assert "run 2/2 second, 20 clients failed after 0.00 s" in shown
    assert shown.count("\x1b[?25l") == shown.count("\x1b[?25h") == 1, "the cursor is hidden once and shown again"


def test_the_terminal_is_restored_after_an_error() -> None:
    out = io.StringIO()
    with pytest.raises(KeyboardInterrupt), ConsoleCallback(RichConsole(file=out, force_terminal=True, legacy_windows=False)) as callback:
        callback.plan(experiments())
        raise KeyboardInterrupt
    assert out.getvalue().count("\x1b[?25l") == out.getvalue().count("\x1b[?25h") == 1


def test_a_diverged_round_is_shown() -> None:
    out, clock = io.StringIO(), Clock()
    with ConsoleCallback(RichConsole(file=out), clock) as callback:
        callback.plan(experiments())
        callback.started("r1", experiments()[0])
        callback.round(row(1, test_accuracy=0.1, test_loss=float("nan")))
    assert "acc 10.0 % loss nan" in out.getvalue()


def test_quiet_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    play(Callback(), Clock())
    assert capsys.readouterr() == ("", "")


def test_a_run_without_a_name_shows_its_method() -> None:
    out, clock = io.StringIO(), Clock()
    with ConsoleCallback(RichConsole(file=out), clock) as callback:
        callback.plan([parse({"client": {"optimizer": "sam"}})])
        callback.started("r1", parse({"client": {"optimizer": "sam"}}))
    assert "run 1/1 sam x none x fedavg, 100 clients, seed 0 (r1)" in out.getvalue()


def test_runs_that_go_on_at_once_are_told_apart_and_count_by_their_estimates() -> None:
    out, clock = io.StringIO(), Clock()
    first, second = experiments()
    with ConsoleCallback(RichConsole(file=out, width=40), clock) as callback:
        callback.plan([first, second, second.model_copy(update={"seed": 1})], [30.0, 60.0, 10.0])
        callback.started("r2", second)
        callback.started("r1", first)
        callback.warn("r1", "uses digits")
        callback.round(row(1, "r2"))
        clock.now += 2.0
        callback.round(row(1, "r1"))
        callback.finished("r2", "finished", None)
        callback.skipped(second.model_copy(update={"seed": 1}), "it is at work elsewhere")
        clock.now += 2.0
        callback.round(row(2, "r1"))
    assert out.getvalue().splitlines() == [
        "3 runs, 9 rounds",
        "run 2/3 second, 20 clients, seed 0 (r2)",
        "run 1/3 first, 20 clients, seed 0 (r1)",
        "run 1/3 first, 20 clients: uses digits",
        "run 2/3 second, 20 clients: round 1/3 cohort 10 train loss 1.75 2 rounds/s ETA 2.00 s",
        "run 1/3 first, 20 clients: round 1/3 cohort 10 train loss 1.75 2 rounds/s ETA 14.0 s",
        "run 2/3 second, 20 clients finished after 2.00 s: train loss 1.75",
        "run 3/3 second, 20 clients skipped: it is at work elsewhere",
        "round 2/3 cohort 10 train loss 1.75 0.5 rounds/s ETA 0.57 s",
    ]


def test_the_share_of_the_budget_counts() -> None:
    out, clock = io.StringIO(), Clock()
    experiment = parse({"name": "first", "rounds": 10, "budget": 1000})
    with ConsoleCallback(RichConsole(file=out), clock) as callback:
        callback.plan([experiment])
        callback.started("r1", experiment)
        callback.round(row(1))
        clock.now += 2.0
        callback.round(row(2))
    first, _, _, last = out.getvalue().splitlines()
    assert first == "1 run, at most 10 rounds"
    assert last == "round 2/10 budget 100 % cohort 10 train loss 1.75 0.5 rounds/s ETA 0.00 s"
