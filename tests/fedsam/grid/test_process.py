"""Tests of fedsam.grid.process."""

from __future__ import annotations

import gc
import platform
import subprocess
import sys
from collections.abc import Iterator
from threading import Event

import pytest

from experiments.cli.output import progress_callback
from experiments.running.grids import actor_groups
from fedsam.config import parse
from fedsam.grid import process

FAULTS = """
import resource, numpy
from fedsam.grid.process import keep_freed_memory
{call}
blocks = [numpy.ones(2**20) for _ in range(4)]  # 8 MiB each: what a vector of two million parameters has
del blocks
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(8):
    numpy.ones(2**20), numpy.ones(2**20)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
WATCHED = """
import gc
from experiments.cli import main

whole = main.main

def watched():
    try:
        whole()
    finally:
        print("collects:", gc.isenabled())

main.main = watched
main.program()
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the settings are those of glibc")
def test_blocks_that_were_freed_are_used_again_without_page_faults() -> None:
    script = FAULTS.format(call="keep_freed_memory()")
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 16 * 2**23 / 4096 / 10


@pytest.fixture
def own(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A process of which nobody has said whose it is."""
    monkeypatch.setattr(process, "_own", Event())
    assert gc.isenabled()
    yield
    gc.enable()


@pytest.mark.usefixtures("own")
def test_what_is_there_when_collection_resumes_is_looked_at_no_more() -> None:
    process.pause_collection()
    assert not gc.isenabled()
    made = [list[object]()]
    process.resume_collection()
    assert gc.isenabled()
    assert not any(one is made for one in gc.get_objects())
    made = [[]]
    process.resume_collection()  # it was not paused
    assert any(one is made for one in gc.get_objects())
    process.exempt_from_collection()
    assert not any(one is made for one in gc.get_objects())


@pytest.mark.usefixtures("own")
def test_a_users_own_process_is_left_alone() -> None:
    made = [list[object]()]
    gc.disable()
    process.resume_collection()
    process.exempt_from_collection()
    assert not gc.isenabled()
    assert any(one is made for one in gc.get_objects())


@pytest.mark.usefixtures("own")
def test_commands_that_make_runs_collect_once_there_are_grids() -> None:
    process.pause_collection()
    with actor_groups([parse({"data": {"dataset": "digits"}, "model": "lenet5", "compute": {"grid": "inline"}})], 1):
        assert gc.isenabled()
    process.pause_collection()
    with progress_callback(quiet=True):
        assert not gc.isenabled()
    assert gc.isenabled()


def test_all_other_commands_collect() -> None:
    done = subprocess.run([sys.executable, "-c", WATCHED, "list", "datasets"], capture_output=True, text=True, check=True)
    assert done.stdout.rstrip().endswith("collects: True")
