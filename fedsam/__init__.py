"""The engine: knows torch, Flower and Ray; knows no algorithm. Also what a user imports: `fedsam.run` and the others of `__all__`."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from experiments.api import compare, figures, report, rounds, sweep
    from experiments.callbacks.callback import Callback
    from experiments.running.server_app import run
    from fedsam.config import Experiment
    from fedsam.results.model_files import load_model
    from fedsam.results.store import Results

    __version__: str

__all__ = ["Callback", "Experiment", "Results", "__version__", "compare", "figures", "load_model", "report", "rounds", "run", "sweep"]

# Flower reads this once, when it is imported: telemetry is off unless the user turns it on.
os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")

_HOMES = {
    "Callback": "experiments.callbacks.callback",
    "Experiment": "fedsam.config",
    "Results": "fedsam.results.store",
    "compare": "experiments.api",
    "figures": "experiments.api",
    "load_model": "fedsam.results.model_files",
    "report": "experiments.api",
    "rounds": "experiments.api",
    "run": "experiments.running.server_app",
    "sweep": "experiments.api",
}


def __getattr__(name: str) -> Any:
    # Nothing is imported before it is used: torch, Flower and Ray take seconds.
    if name == "__version__":
        return _version()
    if name in _HOMES:
        from importlib import import_module

        from fedsam.imports import prefer_own

        prefer_own()  # the script that asks may have a module `experiments` beside it
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _version() -> str:
    """The version that is installed; `unknown` where fedsam is only on the search path."""
    from importlib import metadata

    try:
        return metadata.version("fedsam")
    except metadata.PackageNotFoundError:
        return "unknown"
