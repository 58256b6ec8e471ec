"""However `fedsam run` and `fedsam compare` end: the exit code says how, finished rounds are kept, nothing is left behind."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from fedsam.results import Results
from tests.processes import alive, descendants

SETTINGS = """
rounds = 10000
[data]
dataset = "digits"
clients = 8
[model]
name = "lenet5"
"""


RUN = ("run", "e.toml")
TWO_AT_ONCE = ("compare", "e.toml", "--parallel", "2", "-o", "compute.actors=2", "-o", "sweep.seeds=[0, 1]")


def command(
    folder: Path, settings: str, act: Callable[[subprocess.Popen[str], str], bool], arguments: Sequence[str] = RUN
) -> tuple[int, str]:
    """The exit code of the command and what it said, once everything that it started is gone; `act` sees each line until it is true."""
    (folder / "e.toml").write_text(settings)
    call = [sys.executable, "-m", "experiments.cli", *arguments]
    # Ray's own folder goes to TMPDIR, so that what it leaves there can be told from that of others; Ray needs a short path.
    temporary = tempfile.mkdtemp(prefix="t", dir="/tmp")
    environment = os.environ | {"TMPDIR": temporary}
    with subprocess.Popen(call, cwd=folder, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True) as process:
        watchdog = threading.Timer(120, process.kill)
        watchdog.start()
        assert process.stderr is not None
        said, started = [], set[int]()
        for line in process.stderr:
            said.append(line)
            started |= descendants(process.pid)
            if act(process, line):
                break
        said += process.stderr.readlines()
        got = process.wait()
        watchdog.cancel()
    assert "Traceback" not in "".join(said)
    assert started
    assert not {pid for pid in started if alive(pid)}
    assert not list(Path(temporary).glob("fedsam-*"))
    shutil.rmtree(temporary)
    return got, "".join(said)


@pytest.mark.parametrize(
    ("arguments", "number", "code"), [(RUN, signal.SIGINT, 130), (RUN, signal.SIGTERM, 143), (TWO_AT_ONCE, signal.SIGINT, 130)]
)
def test_what_is_stopped_keeps_its_rounds_and_leaves_nothing(
    tmp_path: Path, arguments: Sequence[str], number: signal.Signals, code: int
) -> None:
    def stop(process: subprocess.Popen[str], line: str) -> bool:
        if " round 3/" not in f" {line}":
            return False
        process.send_signal(number)
        process.send_signal(number)  # an impatient person
        return True

    got, said = command(tmp_path, SETTINGS, stop, arguments)
    assert got == code, said
    assert "kept" in said
    with Results.open(tmp_path / "runs", create=False) as results:
        runs = results.runs()
        assert [run.status for run in runs] == ["interrupted"] * (2 if arguments is TWO_AT_ONCE else 1)
        assert max(len(results.rounds(run.id)) for run in runs) >= 3


@pytest.mark.slow
@pytest.mark.parametrize(("rate", "code", "status"), [(0.01, 0, "finished"), (1e30, 1, "failed")])
def test_a_run_that_ends_by_itself_leaves_nothing(tmp_path: Path, rate: float, code: int, status: str) -> None:
    short = SETTINGS.replace("10000", "2") + f'[client]\nsteps = 2\noptimizer = {{ name = "sgd", lr = {rate} }}\n'
    got, said = command(tmp_path, short, lambda process, line: False)
    assert got == code, said
    with Results.open(tmp_path / "runs", create=False) as results:
        assert [run.status for run in results.runs()] == [status]
