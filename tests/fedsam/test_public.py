"""What `import fedsam` gives, and that it costs nothing until it is used."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

import fedsam


def test_import_fedsam_imports_nothing_heavy_and_keeps_telemetry_off() -> None:
    heavy = "torch", "ray", "flwr", "numpy", "pydantic", "experiments", "clients", "strategies"
    code = f"""
import os, sys
os.environ.pop("FLWR_TELEMETRY_ENABLED", None)
import fedsam
dir(fedsam), fedsam.__version__
assert os.environ["FLWR_TELEMETRY_ENABLED"] == "0"
print(*sorted(set({heavy!r}) & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "\n", "")


@pytest.mark.parametrize(
    ("name", "home"),
    [
        ("Callback", "experiments.callbacks.callback"),
        ("Experiment", "fedsam.config"),
        ("Results", "fedsam.results.store"),
        ("compare", "experiments.api"),
        ("figures", "experiments.api"),
        ("load_model", "fedsam.results.model_files"),
        ("report", "experiments.api"),
        ("rounds", "experiments.api"),
        ("run", "experiments.running.server_app"),
        ("sweep", "experiments.api"),
    ],
)
def test_every_public_name_is_the_one_of_its_module(name: str, home: str) -> None:
    assert getattr(fedsam, name) is getattr(importlib.import_module(home), name)


def test_the_public_names_are_listed_and_others_are_no_attributes() -> None:
    functions = {"compare", "figures", "load_model", "report", "rounds", "run", "sweep"}
    assert set(fedsam.__all__) == {"Callback", "Experiment", "Results", "__version__", *functions}
    assert set(fedsam.__all__) <= set(dir(fedsam))
    with pytest.raises(AttributeError, match="module 'fedsam' has no attribute 'runs'"):
        _ = fedsam.runs  # type: ignore[attr-defined]


def test_the_version_is_unknown_where_fedsam_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    assert fedsam.__version__ == "unknown"
