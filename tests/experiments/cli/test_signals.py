"""A closed terminal ends a run in order, and `fedsam resume` goes on with what it left."""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.cli.main import main
from experiments.cli.output import graceful_shutdown
from experiments.running.checkpointing import FOLDER_NAME
from experiments.settings.toml import toml
from fedsam.results.store import Results
from tests.experiments.running.test_resume import experiment
from tests.support.processes import HANG

ROOT = Path(__file__).parents[3]
# As its session's leader the process gets SIGHUP when its terminal is closed.
LEADER = "import fcntl, os, termios; os.setsid(); fcntl.ioctl(0, termios.TIOCSCTTY, 0); from experiments.cli.main import program; program()"


@pytest.mark.usefixtures("no_figures")
def test_a_closed_terminal_ends_a_run_in_order_and_it_can_be_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "e.toml").write_text(toml(experiment(Path("runs"), {"rounds": 10000, "measure.flatness.measures": []}).dump()))
    ours, its = pty.openpty()
    environment = os.environ | {"PYTHONPATH": str(ROOT), "TERM": "xterm", "COLUMNS": "100"}
    with subprocess.Popen(
        [sys.executable, "-c", LEADER, "run", "e.toml"], cwd=tmp_path, env=environment, stdin=its, stdout=its, stderr=its
    ) as process:
        os.close(its)
        said = b""
        while not re.search(rb" \d+/10000", said):  # of a round, perhaps not the first: the display leaves out some
            said += os.read(ours, 4096)
        os.close(ours)
        assert process.wait(HANG) == 143, said.decode()
    with Results.open(tmp_path / "runs", create=False) as results:
        (run,) = results.runs()
        assert run.status == "interrupted"
        rounds = len(results.rounds(run.id))
    assert list((tmp_path / "runs" / run.id / FOLDER_NAME).iterdir())
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as end:
        main(["resume", run.id[:-2], "--rounds", str(rounds + 1), "-o", "measure.union=false", "--allow-changed", "measure.union"])
    told = capsys.readouterr()
    assert end.value.code == 0, told.err
    assert "goes on after round" in told.err
    with Results.open(tmp_path / "runs", create=False) as results:
        assert (results.runs()[0].status, len(results.rounds(run.id))) == ("finished", rounds + 1)


def test_a_process_that_ignores_hangups_goes_on_to_do_so() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with graceful_shutdown("interrupted"):
            os.kill(os.getpid(), signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
