"""Experiments: configurations in, results and reports out; the only package that imports all the others."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fedsam.imports import prefer_own

if TYPE_CHECKING:
    from experiments.running.result import Result
    from experiments.running.server_app import run
    from fedsam.config import Experiment

__all__ = ["Experiment", "Result", "run"]

prefer_own()  # before anything here imports `clients` or `strategies`


def __getattr__(name: str) -> Any:
    # Nothing is imported before it is used: torch and Flower take seconds, and the command line's `--help` needs not even settings.
    if name == "Experiment":
        from fedsam.config import Experiment

        return Experiment
    if name in ("Result", "run"):
        from experiments.running import run, server_app

        return getattr(server_app if name == "run" else run, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
