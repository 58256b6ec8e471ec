"""Stopping `fedsam run` in mid-run: the exit code says so, finished rounds are kept, nothing is left behind."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
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


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_run_keeps_its_rounds_and_leaves_nothing(tmp_path: Path, number: signal.Signals, code: int) -> None:
    (tmp_path / "e.toml").write_text(SETTINGS)
    command = [sys.executable, "-m", "experiments.cli", "run", "e.toml"]
    # Ray's own folder goes to TMPDIR, so that what it leaves there can be told from that of others; Ray needs a short path.
    folder = tempfile.mkdtemp(prefix="t", dir="/tmp")
    environment = os.environ | {"TMPDIR": folder}
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True) as process:
        watchdog = threading.Timer(120, process.kill)
        watchdog.start()
        assert process.stderr is not None
        said = []
        for line in process.stderr:
            said.append(line)
            if line.startswith("round 3/"):
                break
        started = descendants(process.pid)
        process.send_signal(number)
        said += process.stderr.readlines()
        got = process.wait()
        watchdog.cancel()
    assert got == code, "".join(said)
    assert "Traceback" not in "".join(said)
    assert "kept" in "".join(said)
    assert started
    assert not {pid for pid in started if alive(pid)}
    assert not list(Path(folder).glob("fedsam-*"))
    shutil.rmtree(folder)
    with Results.open(tmp_path / "runs", create=False) as results:
        (run,) = results.runs()
        assert run.status == "interrupted"
        assert len(results.rounds(run.id)) >= 3
