"""Experiments: configurations in, results and reports out; the only package that imports all the others."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fedsam.config import Experiment
from fedsam.imports import prefer_own

if TYPE_CHECKING:
    from experiments.app import run
    from experiments.session import Result

__all__ = ["Experiment", "Result", "run"]

prefer_own()  # before anything here imports `clients` or `strategies`


def __getattr__(name: str) -> Any:
    # torch and Flower take seconds to import, and the command line's `--help` needs neither.
    if name in ("Result", "run"):
        from experiments import app, session

        return getattr(app if name == "run" else session, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
