"""`fedsam compare`, killed again and again without a word and started again, ends with what an undisturbed one leaves."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.content import content

SETTINGS = """
rounds = 4
model = "lenet5"
server.participation = 2
[data]
dataset = "digits"
clients = 4
examples = 200
[client]
batch_size = 20
[measure.flatness]
measures = ["average", "line"]
examples = 40
[sweep]
"client.optimizer.name" = ["sgd", "sam"]
seeds = [0, 1]
"""
RUNS, ROUNDS = 4, 4


def compare(folder: Path, runs: str, *options: str) -> subprocess.Popen[str]:
    """The command, in `folder`, in a process group of its own."""
    command = [sys.executable, "-m", "experiments.cli.main", "compare", "e.toml", "--runs-dir", runs, *options]
    environment = os.environ | {"TMPDIR": str(folder)}
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment)


def killed(process: subprocess.Popen[str], rounds: int, delay: float) -> bool:
    """Kill a process `delay` seconds after it has finished so many rounds; whether it was not done before."""
    assert process.stderr is not None
    for line in process.stderr:
        rounds -= "cohort" in line
        if rounds < 0:
            break
    threading.Event().wait(delay)
    process.kill()
    process.stderr.close()
    return process.wait() == -9


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with a short path, which Ray's sockets need, and the settings in it."""
    made = Path(tempfile.mkdtemp(prefix="k", dir="/tmp"))
    (made / "e.toml").write_text(SETTINGS)
    yield made
    shutil.rmtree(made, ignore_errors=True)


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.parametrize(
    "options",
    [
        ("-o", "compute.grid=inline"),
        ("-o", "compute.grid=inline", "--parallel", "2"),
        ("-o", "compute.actors=2", "--parallel", "2"),
    ],
    ids=["inline", "processes", "actors"],
)
def test_a_killed_comparison_ends_as_an_undisturbed_one(folder: Path, options: tuple[str, ...]) -> None:
    whole = compare(folder, "whole", *options)
    said = whole.communicate()[1]
    assert whole.returncode == 0, said
    draw, deaths, later = random.Random(5), 0, 1
    while killed(compare(folder, "cut", *options), draw.randrange(later * ROUNDS), draw.uniform(0, 0.1 * later)):
        deaths += 1
        later = min(deaths + 1, 3)  # soon at first, so that there is a second time; then late enough for a run to end
        assert deaths < 10 * RUNS
    assert deaths >= 2
    assert content(folder / "cut") == content(folder / "whole")
    assert len(content(folder / "cut")) == RUNS
    files = {path.parent.name for path in (folder / "cut").glob("*/model.safetensors")}
    assert len(files) == RUNS == sum(path.is_dir() and path.name != "reports" for path in (folder / "cut").iterdir())
