"""Without data and network every shipped config can be planned on the dataset it falls back to (`tests/test_installed.py` runs one)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from experiments.cli import main
from experiments.planning import forecast
from experiments.settings import shipped
from experiments.settings.sweep import expand
from fedsam.config import ConfigError, parse
from fedsam.data.datasets import load
from fedsam.data.federated import partition_examples
from fedsam.overrides import read
from tests.support.official import offline, root, server

__all__ = ["root", "server"]  # fixtures


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


PAPERS, STUDIES = ([name for name in shipped.configs() if name.startswith(folder)] for folder in ("papers/", "studies/"))


@pytest.mark.parametrize("path", [path for name, path in shipped.configs().items() if "/" not in name], ids=lambda path: path.stem)
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
        "client.batch_size=10",
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


@pytest.mark.parametrize("name", PAPERS)
def test_every_recipe_of_a_paper_can_be_planned(
    name: str, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On small files in CIFAR's format, with few clients and a small network: as they are, planning them takes minutes."""
    monkeypatch.setattr(forecast, "PROBE_SECONDS", 0.0)
    monkeypatch.setenv("COLUMNS", "200")
    small = ("data.clients=10", "server.participation=2", "model=lenet5", "client.batch_size=5", "compute.grid=inline")
    changes = [word for text in small for word in ("-o", text)]
    with pytest.raises(SystemExit) as stopped:
        main.main(["compare", name, "--dry-run", "--runs-dir", str(tmp_path / "runs"), "--data-root", str(root), *changes])
    out, err = capsys.readouterr()
    assert stopped.value.code == 0, err
    assert "runs, 0 of them finished before" in out
    assert "–" not in out  # every line has a forecast


@pytest.mark.parametrize("name", PAPERS)
def test_a_recipe_of_a_paper_falls_back_to_nothing(
    name: str, nothing_to_be_had: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main.main(["compare", name, "--dry-run", "--runs-dir", str(tmp_path / "runs"), "-o", "compute.grid=inline"])
    out, err = capsys.readouterr()
    assert (stopped.value.code, out) == (1, "")
    assert "cifar10" in err.lower()
    assert "cannot be" in err or "could not be" in err, err


@pytest.mark.parametrize("name", STUDIES)
def test_every_study_can_be_planned(
    name: str, nothing_to_be_had: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(forecast, "PROBE_SECONDS", 0.0)
    fixed = ("data.clients=20", "data.partition.alpha=1.0", "data.fallback=digits", "sweep.seeds=[0]", "compute={grid='inline'}")
    with pytest.raises(SystemExit) as stopped:
        main.main(["compare", name, "--dry-run", "--runs-dir", str(tmp_path / "runs"), *(word for text in fixed for word in ("-o", text))])
    out, err = capsys.readouterr()
    assert stopped.value.code == 0, err
    methods, trials = {"studies/digits": (16, 16), "studies/cifar10": (8, 8)}[name]
    assert f"tuning: {methods} studies of {trials} trials; at most {methods * trials} runs, about " in out
    assert f"{methods} runs, 0 of them finished before" in out
    assert "–" not in out  # every line has a forecast
