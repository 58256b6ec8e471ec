"""Fixtures that every test may use.

Nothing heavy is imported here: with pytest-xdist, the process that hands out the tests reads this file and runs none of them.
"""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Iterator
from functools import cache, partial, wraps
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from fedsam.grid.ray_start import set_environment
from tests.support.official import root, server

if TYPE_CHECKING:
    from tests.support.shared_ray import SharedRay

__all__ = ["root", "server"]  # fixtures

collect_ignore = ["apps"]  # Flower apps that tests run, whose modules import each other by names of their own

RAY = {"shared_ray", "open_ray"}  # fixtures that start Ray
DEAR = {"wheel", "project"}  # fixtures of a module that take long to make


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Have all tests that start Ray run in one process, one after another: two Rays at once would fight for memory and cores.

    The others of a fixture that takes long to make run in one process, too, so that it is made once.
    """
    for item in items:
        fixtures = set(getattr(item, "fixturenames", ()))
        if item.get_closest_marker("ray") or RAY & fixtures:
            item.add_marker(pytest.mark.xdist_group("ray"))
        elif dear := DEAR & fixtures:
            item.add_marker(pytest.mark.xdist_group(min(dear)))


def pytest_collection_finish() -> None:
    """What was imported stays: the garbage collector, which Flower calls for every message, need not look through it each time."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def interruptible() -> None:
    """Processes that tests start can be interrupted, even where this one runs in the background of a shell, which has it ignore Ctrl-C."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def guarded_ray() -> None:
    """Whichever test imports Ray first, it does so in token mode, which a private Ray needs."""
    set_environment(private=True)


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """torch computes on one thread, here and in commands: results do not depend on the machine's cores, and tests do not fight for them."""
    os.environ["OMP_NUM_THREADS"] = "1"
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def made_once() -> Iterator[None]:
    """What takes longer than the rest of a small test is made once: the digits, and the parser of our command line."""
    import typer.main

    from fedsam.data.datasets import DATASETS

    digits = DATASETS["digits"]
    read = cache(partial(digits, None))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(DATASETS, "digits", wraps(digits)(lambda root: read()))
        patch.setattr(typer.main, "get_command", cache(typer.main.get_command))
        yield


@pytest.fixture(scope="session")
def shared_ray(guarded_ray: None) -> Iterator[SharedRay]:
    """Ray and actors for all tests of this process."""
    from tests.support.shared_ray import SharedRay

    shared = SharedRay()
    yield shared
    shared.stop()


@pytest.fixture
def shared_actors(shared_ray: SharedRay) -> Iterator[None]:
    """Runs on actors are served by those of `shared_ray`."""
    with shared_ray.as_grids():
        yield


@pytest.fixture(scope="session")
def cifar_root() -> Path:
    """A folder with the official CIFAR-10 files, for proofs; tests write small files of their own (`tests.support.official`)."""
    given = os.environ.get("FEDSAM_DATA", "")
    if not given or not (Path(given) / "cifar-10-batches-py").is_dir():
        pytest.fail(f"this proof reads CIFAR-10: FEDSAM_DATA is {given!r} and must be the folder that holds cifar-10-batches-py")
    return Path(given)


@pytest.fixture
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reports have no figures, which take seconds: for tests of something else."""
    monkeypatch.setattr("experiments.reporting.report.report_figures", lambda comparison: iter(()))


@pytest.fixture
def runs_dir(tmp_path: Path) -> Path:
    """An empty folder for a results database."""
    return tmp_path / "runs"
