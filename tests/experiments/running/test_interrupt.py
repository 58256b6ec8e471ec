"""However `fedsam run` and `fedsam compare` end: the exit code says how, finished rounds are kept, nothing is left behind."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from fedsam.results.store import Results
from tests.support.processes import HANG, alive, descendants, names

pytestmark = pytest.mark.ray
SETTINGS = """
rounds = 10000
[data]
dataset = "digits"
clients = 8
examples = 200
[model]
name = "lenet5"
[compute]
actors = 1
"""


ROOT = Path(__file__).parents[3]
RUN = ("run", "e.toml")
TWO_AT_ONCE = ("compare", "e.toml", "--parallel", "2", "-o", "compute.actors=2", "-o", "sweep.seeds=[0, 1]")
TWO_PROCESSES = (*TWO_AT_ONCE, "-o", "compute.grid=inline")


def command(
    folder: Path,
    settings: str,
    act: Callable[[subprocess.Popen[str], str], bool],
    arguments: Sequence[str] = RUN,
    program: Sequence[str] = ("-m", "experiments.cli.main"),
) -> tuple[int, str]:
    """The exit code of the command and what it said, once everything that it started is gone.

    Args:
        act: Sees an empty line when the command starts, then each that it says, until it is true.
        program: What Python is told to run.
    """
    (folder / "e.toml").write_text(settings)
    call = [sys.executable, *program, *arguments]
    # Ray's own folder goes to TMPDIR, so that what it leaves there can be told from that of others; Ray needs a short path.
    temporary = tempfile.mkdtemp(prefix="t", dir="/tmp")
    environment = os.environ | {"TMPDIR": temporary, "PYTHONPATH": str(ROOT)}
    started, ended = set[int](), threading.Event()
    with subprocess.Popen(
        call, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True
    ) as process:

        def look() -> None:
            while not ended.wait(0.1):
                started.update(descendants(process.pid))

        watchdog, lookout = threading.Timer(HANG, process.kill), threading.Thread(target=look)
        watchdog.start()
        lookout.start()
        assert process.stderr is not None
        said, acted = [], act(process, "")
        for line in process.stderr:
            said.append(line)
            acted = acted or act(process, line)
        got = process.wait()
        watchdog.cancel()
        ended.set()
        lookout.join()
    assert "Traceback" not in "".join(said)
    assert not {pid for pid in started if alive(pid)}
    assert not list(Path(temporary).glob("fedsam-*"))
    shutil.rmtree(temporary)
    return got, "".join(said)


@pytest.mark.parametrize(
    ("arguments", "number", "code", "delay"),
    [
        (RUN, signal.SIGTERM, 143, 1.0),
        pytest.param(("doctor",), signal.SIGINT, 130, 1.0, marks=pytest.mark.slow),
        *(pytest.param(RUN, signal.SIGTERM, 143, delay, marks=pytest.mark.slow) for delay in (0.0, 0.5, 2.0, 3.0, 4.0)),
    ],
)
def test_what_is_stopped_while_ray_starts_leaves_nothing(
    tmp_path: Path, arguments: Sequence[str], number: signal.Signals, code: int, delay: float
) -> None:
    def stop(process: subprocess.Popen[str], line: str) -> bool:
        def later() -> None:
            while "gcs_server" not in names(process.pid):
                time.sleep(0.05)
            time.sleep(delay)
            process.send_signal(number)

        threading.Thread(target=later, daemon=True).start()
        return True

    got, said = command(tmp_path, SETTINGS, stop, arguments)
    assert got == code, said
    assert "interrupted" in said


@pytest.mark.parametrize(
    ("arguments", "number", "code"),
    [
        pytest.param(RUN, signal.SIGINT, 130, marks=pytest.mark.slow),
        (RUN, signal.SIGTERM, 143),
        pytest.param(TWO_AT_ONCE, signal.SIGINT, 130, marks=pytest.mark.slow),
        (TWO_PROCESSES, signal.SIGINT, 130),
    ],
)
def test_what_is_stopped_keeps_its_rounds_and_leaves_nothing(
    tmp_path: Path, arguments: Sequence[str], number: signal.Signals, code: int
) -> None:
    runs, third = 1 if arguments is RUN else 2, list[str]()  # round 3 of each run

    def stop(process: subprocess.Popen[str], line: str) -> bool:
        if " round 3/" in f" {line}":
            third.append(line)
        if len(third) < runs:
            return False
        process.send_signal(number)
        process.send_signal(number)  # an impatient person
        return True

    got, said = command(tmp_path, SETTINGS, stop, arguments)
    assert got == code, said
    assert "kept" in said
    with Results.open(tmp_path / "runs", create=False) as results:
        assert [run.status for run in results.runs()] == ["interrupted"] * runs
        assert min(len(results.rounds(run.id)) for run in results.runs()) >= 3


def test_a_thread_that_goes_on_does_not_hold_up_what_is_stopped(tmp_path: Path) -> None:
    def stop(process: subprocess.Popen[str], line: str) -> bool:
        if " round 3/" not in f" {line}":
            return False
        process.send_signal(signal.SIGTERM)
        return True

    going_on = "import threading; threading.Thread(target=threading.Event().wait).start(); from experiments.cli import main; main.program()"
    got, said = command(tmp_path, SETTINGS, stop, (*RUN, "-o", "compute.grid=inline"), ("-c", going_on))
    assert got == 143, said
    assert "kept" in said


@pytest.mark.slow
def test_an_app_whose_threads_wait_for_clients_does_not_wait_for_them_to_stop(tmp_path: Path) -> None:
    def stop(process: subprocess.Popen[str], line: str) -> bool:
        if "configure_fit" not in line:
            return False
        time.sleep(1)  # mostly, the threads wait by then
        process.send_signal(signal.SIGINT)
        return True

    arguments = ("flower", f"{ROOT}/tests/apps/legacy", "--run-config", f"seconds=1000000 output='{tmp_path}'")
    got, said = command(tmp_path, SETTINGS, stop, arguments)
    assert got == 130, said
    assert "interrupted; Ray is stopped" in said


@pytest.mark.slow
@pytest.mark.parametrize(("rate", "code", "status"), [(0.01, 0, "finished"), (1e30, 4, "diverged")])
def test_a_run_that_ends_by_itself_leaves_nothing(tmp_path: Path, rate: float, code: int, status: str) -> None:
    short = SETTINGS.replace("10000", "2") + f'[client]\nsteps = 2\noptimizer = {{ name = "sgd", lr = {rate} }}\n'
    got, said = command(tmp_path, short, lambda process, line: False)
    assert got == code, said
    with Results.open(tmp_path / "runs", create=False) as results:
        assert [run.status for run in results.runs()] == [status]
