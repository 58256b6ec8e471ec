from __future__ import annotations

import io
import math
from dataclasses import replace

import pytest
from rich.cells import cell_len
from rich.console import Console as RichConsole
from rich.text import Text

from experiments.callbacks.callback import Callback
from experiments.callbacks.progress import ConsoleCallback, shown
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


@pytest.mark.parametrize(
    ("measures", "shown"),
    [
        ({"test_accuracy": 0.4, "test_loss": 1.5, "validation_accuracy": 0.3}, "acc 40.0 % loss 1.5 (validation 30.0 %)"),
        ({"validation_accuracy": 0.3, "validation_loss": 2.0}, "validation 30.0 %"),
    ],
)
def test_what_is_held_out_is_shown_beside_the_test_set_or_alone(measures: dict[str, float], shown: str) -> None:
    out, (experiment, _) = io.StringIO(), experiments()
    with ConsoleCallback(RichConsole(file=out, width=40), Clock()) as callback:
        callback.plan([experiment])
        callback.started("r1", experiment)
        callback.round(row(1, **measures))
        callback.finished("r1", "pruned", "ended after round 1 by the judge of its rounds")
        callback.started("r2", experiment)
        callback.round(row(1, "r2", **measures))
        callback.finished("r2", "finished", None)
    lines = out.getvalue().splitlines()
    assert lines[2].startswith(f"round 1/3 cohort 10 {shown} ")
    assert lines[3] == "run 1/1 first, 20 clients pruned after 0.00 s: ended after round 1 by the judge of its rounds"
    assert lines[6] == f"run 1/1 first, 20 clients finished after 0.00 s: final {shown}"


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
        "run 1/2 first, 20 clients finished after 6.00 s: final acc 41.2 % loss 1.63, mean of the last 2 evaluations",
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
    assert "1/3 acc 25.0 % loss 2 2 rounds/s" in shown
    assert "run 2/2 second, 20 clients failed after 0.00 s" in shown
    assert shown.count("\x1b[?25l") == shown.count("\x1b[?25h") == 1, "the cursor is hidden once and shown again"


def test_the_terminal_is_restored_after_an_error() -> None:
    out = io.StringIO()
    with pytest.raises(KeyboardInterrupt), ConsoleCallback(RichConsole(file=out, force_terminal=True, legacy_windows=False)) as callback:
        callback.plan(experiments())
        raise KeyboardInterrupt
    assert out.getvalue().count("\x1b[?25l") == out.getvalue().count("\x1b[?25h") == 1


@pytest.mark.parametrize(
    ("measures", "found"),
    [
        ({"test_accuracy": 0.1, "test_loss": math.nan}, "test loss nan"),
        ({"test_accuracy": 0.1, "test_loss": 1e26}, "test loss 1e+26"),
        ({"test_accuracy": 0.1, "test_loss": 2.0, "nonfinite_parameters": 2002.0}, "2002 parameters not finite"),
    ],
)
def test_divergence_is_named_in_the_round_where_it_is_found_and_at_the_end(measures: dict[str, float], found: str) -> None:
    out, clock = io.StringIO(), Clock()
    with ConsoleCallback(RichConsole(file=out), clock) as callback:
        callback.plan(experiments()[:1])
        callback.started("r1", experiments()[0])
        callback.round(row(1, test_accuracy=0.5, test_loss=1.0))
        callback.round(row(2, **measures))
        callback.round(row(3, **measures))
        callback.finished("r1", "finished", None)
    lines = out.getvalue().splitlines()
    assert [number for number, line in enumerate(lines) if line == f"diverged in round 2: {found}"] == [3]
    assert lines[4].startswith(f"round 2/3 cohort 10 diverged ({found}) ")
    assert "finished after 0.00 s: diverged in round 2, final acc 23.3 %" in lines[-1]


@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize("name", ["sam", "a very long name of a method, longer than a terminal is wide, with 中文 in it", ""])
def test_a_live_line_of_80_columns_has_the_rate(several: bool, name: str) -> None:
    out, clock = io.StringIO(), Clock()
    experiment = parse({"name": name, "rounds": 1000, "data": {"clients": 20}})
    plan = [experiment, experiment.model_copy(update={"seed": 1})] if several else [experiment]
    console = RichConsole(file=out, width=80, force_terminal=True, legacy_windows=False, color_system=None)
    with ConsoleCallback(console, clock) as callback:
        callback.plan(plan)
        for number, one in enumerate(plan):
            callback.started(f"r{number}", one)
        clock.now += 100.0
        for number in range(len(plan)):
            callback.round(replace(row(999, f"r{number}", test_accuracy=0.412, test_loss=163.4), wall_seconds=20.0))
    last = Text.from_ansi(out.getvalue().split("\x1b[?25h")[0].replace("\r", "\n")).plain.splitlines()
    lines = [line for line in last if "rounds/s" in line]
    assert lines and all(cell_len(line.rstrip()) <= 80 for line in lines)
    assert all("999/1000" in line and "acc 41.2 % loss 163" in line and "0.05 rounds/s" in line for line in lines)
    assert several or all("ETA 0.02 s" in line for line in lines)


def test_text_of_others_reaches_the_terminal_as_text() -> None:
    out, clock = io.StringIO(), Clock()
    hostile = ":bug: [red]x[/red] \x1b[31mred\x1b[2J"
    experiment = parse({"name": hostile})
    with ConsoleCallback(RichConsole(file=out, width=200, color_system=None, force_terminal=False), clock) as callback:
        callback.plan([experiment])
        callback.started("r1", experiment)
        callback.warn("r1", hostile)
        callback.finished("r1", "failed", f"{hostile}\nsecond line")
    shown = out.getvalue()
    assert "\x1b" not in shown and shown.count(":bug: [red]x[/red] \\x1b[31mred\\x1b[2J") == 4
    assert shown.endswith("\nsecond line\n")


def test_from_python_progress_is_shown_where_somebody_looks(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with shown(None) as callback:
        assert type(callback) is Callback  # stderr is a file
    own = Callback()
    with shown(own) as callback:
        assert callback is own
    with monkeypatch.context() as patched:
        patched.setenv("FORCE_COLOR", "1")  # rich then takes anything for a terminal
        with shown(None) as callback:
            assert isinstance(callback, ConsoleCallback)
    with monkeypatch.context() as patched:
        patched.setattr("rich.console._is_jupyter", lambda: True)
        with shown(None) as callback:
            play(callback, Clock())
    assert "round 1/3 cohort 10 train loss 1.75" in capsys.readouterr().out


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
