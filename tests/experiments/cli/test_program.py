"""How the process of a command ends."""

from __future__ import annotations

import subprocess
import sys

import pytest

BEGIN = """
import atexit, sys, threading
from experiments.cli import main

class Last:
    def __del__(self):
        print("taken apart")

def go():
    global last
    last = Last()
    atexit.register(print, "at exit")
    threading.Timer(0.1, print, ["thread"]).start()
    print("done")
"""


def ended(end: str) -> subprocess.CompletedProcess[str]:
    code = f"{BEGIN}    {end}\n\nmain.main = go\nmain.program()"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


@pytest.mark.parametrize(("end", "code"), [("sys.exit(0)", 0), ("sys.exit(4)", 4), ("sys.exit()", 0)])
def test_threads_and_exit_functions_come_before_the_end_and_nothing_is_taken_apart(end: str, code: int) -> None:
    process = ended(end)
    assert (process.returncode, process.stdout, process.stderr) == (code, "done\nthread\nat exit\n", "")


def test_what_others_have_left_open_is_written() -> None:
    froze = "import gc; from fedsam.grid import process; process.exempt_from_collection()"
    thaws = "atexit.register(lambda: print(gc.get_freeze_count()))"
    process = ended(f"{froze}; {thaws}; from fedsam import plugins; plugins.load('json:dumps', 'callbacks'); sys.exit(3)")
    assert (process.returncode, process.stdout) == (3, "done\nthread\n0\nat exit\ntaken apart\n")


def test_an_app_of_others_ends_as_python_ends_it() -> None:
    code = f"{BEGIN}    whole()\n\nwhole, main.main = main.main, go\nmain.program()"
    for arguments, rest in ((["flower", "nowhere"], "taken apart\n"), (["explain", "nothing"], "")):
        process = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
        assert (process.returncode, process.stdout) == (2, f"done\nthread\nat exit\n{rest}")


def test_output_that_is_closed_is_no_error() -> None:
    code = "import sys; sys.stdout = None; from experiments.cli import main; main.main = lambda: exit(4); main.program()"
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (process.returncode, process.stderr) == (4, "")


def test_an_interrupted_program_waits_for_no_thread() -> None:
    assert (ended("sys.exit(130)").returncode, ended("sys.exit(130)").stdout) == (130, "done\n")


def test_an_error_ends_the_process_as_any_other() -> None:
    process = ended("raise RuntimeError('of ours')")
    assert process.returncode == 1
    assert "RuntimeError: of ours" in process.stderr
    assert process.stdout.startswith("done\n")
    assert "taken apart" in process.stdout


def test_output_that_cannot_be_written_is_an_error() -> None:
    with open("/dev/full", "w") as full:
        code = "from experiments.cli import main; main.main = lambda: (print('lost'), exit(0)); main.program()"
        process = subprocess.run([sys.executable, "-c", code], stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert process.returncode != 0
    assert "No space left" in process.stderr
