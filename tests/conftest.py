"""Fixtures that every test may use."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

collect_ignore = ["apps"]  # Flower apps that tests run, whose modules import each other by names of their own

CACHE = Path.home() / ".cache" / "fedsam"
UNPACK = Path(__file__).resolve().parents[2] / "shared" / "data" / "unpack_cifar10.py"


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """torch computes on one thread: results do not depend on the machine's cores, and tests do not fight for them."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def cifar_root() -> Path:
    """A folder with the official CIFAR-10 files: $FEDSAM_DATA, or rebuilt from the lossless copy beside the checkout."""
    given = os.environ.get("FEDSAM_DATA")
    if given:
        if not (Path(given) / "cifar-10-batches-py").is_dir():
            pytest.fail(f"FEDSAM_DATA={given} holds no folder cifar-10-batches-py")
        return Path(given)
    if not UNPACK.is_file():
        pytest.skip(f"needs CIFAR-10: set FEDSAM_DATA to the folder that holds cifar-10-batches-py ({UNPACK} is not there either)")
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "unpack.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # test processes that run side by side unpack once
        done = subprocess.run([sys.executable, UNPACK, CACHE], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.fail(f"{UNPACK} failed:\n{done.stderr}")
    return CACHE


@pytest.fixture
def runs_dir(tmp_path: Path) -> Path:
    """An empty folder for a results database."""
    return tmp_path / "runs"
