"""Tests of fedsam.grid.process."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

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


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the settings are those of glibc")
def test_blocks_that_were_freed_are_used_again_without_page_faults() -> None:
    script = FAULTS.format(call="keep_freed_memory()")
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 16 * 2**23 / 4096 / 10
