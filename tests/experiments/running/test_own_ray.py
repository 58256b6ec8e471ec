"""Runs in a process that imported or started Ray itself, as a notebook may."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

SETTINGS = """
SETTINGS = {
    "rounds": 2,
    "model": "lenet5",
    "data": {"dataset": "digits", "clients": 4, "examples": 120},
    "client": {"batch_size": 20},
    "server": {"participation": 2},
    "compute": {"actors": 1},
}
def accuracies(**compute):
    result = fedsam.run(SETTINGS | {"compute": SETTINGS["compute"] | compute}, fedsam.Callback())
    return [row["test_accuracy"] for row in result.rounds]
"""


def script(folder: Path, text: str) -> subprocess.CompletedProcess[str]:
    """What a script without Ray's variables in its environment says and how it ends."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return subprocess.run(
        [sys.executable, "-c", SETTINGS + textwrap.dedent(text)],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


@pytest.mark.ray
def test_a_ray_that_was_started_before_is_used_and_left_as_it_is(tmp_path: Path) -> None:
    done = script(
        tmp_path,
        """
        import ray, time
        ray.init(num_cpus=2, include_dashboard=False, logging_level="error")
        import fedsam
        from fedsam.config import ConfigError
        assert accuracies() == accuracies(grid="inline")
        assert ray.is_initialized() and not ray.util.list_named_actors()
        while ray.available_resources()["CPU"] < 2:  # which Ray says some time after the actors' end
            time.sleep(0.05)
        try:
            accuracies(ray_address="10.0.0.1:6379")
        except ConfigError as error:
            print(error)
        """,
    )
    assert done.returncode == 0, done.stderr
    assert "compute.ray_address: '10.0.0.1:6379' is not allowed: this process is at the Ray of" in done.stdout


def test_a_ray_that_was_imported_without_authentication_is_refused_with_what_helps(tmp_path: Path) -> None:
    done = script(
        tmp_path,
        """
        import ray, fedsam
        from fedsam.config import ConfigError
        try:
            accuracies()
        except ConfigError as error:
            print(error)
        assert len(accuracies(grid="inline")) == 2
        """,
    )
    assert done.returncode == 0, done.stderr
    assert (
        "ray was imported before, without authentication; call ray.init() and fedsam uses that Ray, or set RAY_AUTH_MODE=token"
        in done.stdout
    )
