"""What a stranger has: no data, no network, an empty home. The first command still ends with a result, and every file can be planned."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from experiments.cli import main
from experiments.planning import forecast
from experiments.settings import shipped
from experiments.settings.sweep import expand
from fedsam.config import ConfigError, parse
from fedsam.data.datasets import load
from fedsam.data.federated import partition_examples
from fedsam.overrides import read
from fedsam.results.store import Results
from tests.support.official import offline

QUICKSTART = shipped.configs()["quickstart"]

# What Python imports first in every process: whatever is not this machine refuses to be found or connected to.
SITE = """
import errno, socket
OWN = {own!r}
def refuse(address):
    if isinstance(address, tuple) and address[0] not in OWN:
        raise OSError(errno.ENETUNREACH, f"{{address[0]}} is out of reach in this test")
def guarded(connect):
    return lambda self, address: refuse(address) or connect(self, address)
socket.socket.connect = guarded(socket.socket.connect)
socket.socket.connect_ex = guarded(socket.socket.connect_ex)
search = socket.getaddrinfo
def getaddrinfo(host, *rest, **options):
    if host not in OWN and host is not None:
        raise socket.gaierror(socket.EAI_NONAME, f"{{host}} is out of reach in this test")
    return search(host, *rest, **options)
socket.getaddrinfo = getaddrinfo
"""


def own_addresses() -> set[str]:
    """What this machine is called."""
    return {"", "localhost", socket.gethostname(), "0.0.0.0", "::"} | {
        address.address for each in psutil.net_if_addrs().values() for address in each
    }


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """The environment of a process that reaches nothing but this machine, in an empty home."""
    home, site = tmp_path / "home", tmp_path / "site"
    home.mkdir()
    site.mkdir()
    (site / "sitecustomize.py").write_text(SITE.format(own=own_addresses()))
    rest = {
        key: value for key, value in os.environ.items() if not key.startswith(("FEDSAM_", "RAY_", "XDG_")) and "proxy" not in key.lower()
    }
    return rest | {"HOME": str(home), "PYTHONPATH": f"{site}:{Path(__file__).parents[3]}", "COLUMNS": "100"}


def quickstart(folder: Path, environment: dict[str, str], *options: str) -> tuple[str, str]:
    """stdout and stderr of the first command, which must end well."""
    command = [sys.executable, "-m", "experiments.cli.main", "run", str(QUICKSTART), *options]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


def assert_compared(out: str, err: str) -> None:
    """SGD against SAM, 10 against 30 clients: a table, a report, and what was used instead of CIFAR."""
    assert "NOT cifar10: digits was used instead" in out
    rows = [line.split()[:2] for line in out.splitlines() if line.startswith((" sgd ", " sam "))]
    assert sorted(rows) == [[name, clients] for name in ("sam", "sgd") for clients in ("10", "30")]
    note = "dataset cifar10 cannot be had: this run uses digits instead, all 1442 training examples of it (data.examples: 5000)"
    assert err.count(note) == 4
    assert err.count("downloading") == err.count("WARNING") == 1


def test_the_first_command_ends_with_a_result_without_data_and_network(tmp_path: Path, environment: dict[str, str]) -> None:
    short = ("-o", "rounds=1", "-o", "client.epochs=1", "-o", "server.participation=2", "-o", "compute.grid=inline")
    out, err = quickstart(tmp_path, environment, *short)
    assert_compared(out, err)
    assert "out of reach in this test" in err
    report = tmp_path / out.splitlines()[-1].removeprefix("report: ")
    assert "digits, because cifar10 could not be had" in report.read_text()


@pytest.mark.slow
@pytest.mark.ray
def test_the_first_command_as_it_is(tmp_path: Path, environment: dict[str, str]) -> None:
    assert_compared(*quickstart(tmp_path, environment))
    with Results.open(tmp_path / "runs", create=False) as results:
        finals = [results.rounds(run.id)[-1].measures for run in results.runs()]
    assert len(finals) == 4
    assert all(measures["test_accuracy"] > 0.7 and measures["union_accuracy"] > 0.7 for measures in finals)


def test_examples_that_are_not_there_are_an_error_unless_the_fallback_took_over(tmp_path: Path) -> None:
    digits = load("digits", tmp_path)
    taken = {"dataset": "cifar10", "fallback": "digits", "examples": 5000, "clients": 3}
    assert sum(map(len, partition_examples(parse({"data": taken}), digits))) == 1442
    assert sum(map(len, partition_examples(parse({"data": taken | {"examples": 100}}), digits))) == 100
    with pytest.raises(ConfigError, match=r"data\.examples: 5000 is not allowed: digits has 1442 training examples"):
        partition_examples(parse({"data": taken | {"dataset": "digits"}}), digits)


@pytest.fixture
def nothing_to_be_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An empty data root, and no server."""
    offline(monkeypatch)
    monkeypatch.setenv("FEDSAM_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("COLUMNS", "200")
    return


@pytest.mark.parametrize("path", shipped.configs().values(), ids=lambda path: path.stem)
def test_every_file_that_we_ship_can_be_planned_on_what_it_falls_back_to(
    path: Path, tmp_path: Path, nothing_to_be_had: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def said(*arguments: str) -> str:
        with pytest.raises(SystemExit) as stopped:
            main.main([*arguments, "--runs-dir", str(tmp_path / "runs"), "-o", "data.fallback=digits"])
        out, err = capsys.readouterr()
        assert stopped.value.code == 0, err
        return out

    monkeypatch.setattr(forecast, "PROBE_SECONDS", 0.0)  # two local steps are enough here, and few examples
    runs = len(expand(read(path)))
    assert said("run", str(path), "--print-config").startswith(f"# {runs} runs")
    cheap = (
        "-o",
        "compute.grid=inline",
        "-o",
        "measure.flatness.examples=10",
        "-o",
        "measure.flatness.batch_size=10",
        "-o",
        "measure.flatness.probes=2",
    )
    plan = said("compare", str(path), "--dry-run", *cheap)
    assert f"{runs} runs, 0 of them finished before" in plan
    assert "–" not in plan  # every line has a forecast
