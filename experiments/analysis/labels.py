"""Labels of runs: the name, or the components and settings in which a run differs from the others."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from fedsam import overrides
from fedsam.config import Published
from fedsam.formatting import printable
from fedsam.results.rows import Run

METHOD_COMPONENTS = ("client.optimizer", "client.correction", "server.strategy")
COMPONENTS = (*METHOD_COMPONENTS, "client.schedule", "data.partition", "model")
# Left out of labels: they change no method, or have a column of their own.
UNLABELLED = {
    "name",
    "method",
    "seed",
    "runs_dir",
    "data.root",
    "data.fallback",
    "data.clients",
    "measure.target",
    "checkpoint.every",
    "checkpoint.seconds",
    *(f"published.{key}" for key in Published.model_fields),
}
UNLABELLED |= {f"compute.{key}" for key in ("grid", "actors", "cpus_per_actor", "gpus_per_actor", "ray_address", "shard_size")}
PER_CLIENT_COUNT = {"rounds", "budget", "server.participation"}  # compared among runs with the same number of clients
Settings = Mapping[str, Any]


def labels(runs: Sequence[Run]) -> dict[str, str]:
    """A label of one line for each run id: its name, preset or components, with the settings in which the runs differ."""
    settings = {run.id: flatten(run) for run in runs}
    names = {run.id: run.name or run.config.get("method", "") for run in runs}
    peers = {name: [settings[run.id] for run in runs if names[run.id] == name] for name in names.values()}
    return {run.id: label(settings[run.id], peers[names[run.id]], names[run.id]) for run in runs}


def label(settings: Settings, shown: Sequence[Settings], name: str = "") -> str:
    """Label of the method of `settings` (by dotted key) among those `shown`: `name`, or its optimizer and the components that vary.

    >>> sgd, sam = {"client.optimizer.name": "sgd", "rounds": 3}, {"client.optimizer.name": "sam", "client.optimizer.rho": 0.1, "rounds": 3}
    >>> label(sam, [sgd, sam]), label(sam, [sgd, sam, sam | {"client.optimizer.rho": 0.2}]), label(sgd, [sgd, sgd | {"rounds": 9}])
    ('sam', 'sam(rho=0.1)', 'sgd, rounds=3')
    """
    varied = {component: text for component in COMPONENTS if (text := _varied(settings, shown, component))}
    method = [varied[component] for component in METHOD_COMPONENTS if component in varied]
    if not name and "client.optimizer" not in varied:
        method.insert(0, settings["client.optimizer.name"])
    keys = [key for key in settings if key not in UNLABELLED and not any(key.startswith(f"{component}.") for component in COMPONENTS)]
    rest = [f"{key.rpartition('.')[2]}={_plain(settings[key])}" for key in keys if _varies(key, shown, by_count=key in PER_CLIENT_COUNT)]
    others = [varied[component] for component in COMPONENTS if component in varied and component not in METHOD_COMPONENTS]
    return printable(", ".join(filter(None, [name, " × ".join(method), *others, *rest])))


def _varied(settings: Settings, shown: Sequence[Settings], component: str) -> str:
    """The component with the hyperparameters in which it varies among `shown`; empty where it does not vary."""
    name = settings.get(f"{component}.name")
    same = [other for other in shown if other.get(f"{component}.name") == name]
    keys = [key for key in settings if key.startswith(f"{component}.") and _varies(key, same)]
    return _call(settings, component, keys) if keys or len(same) < len(shown) else ""


def _varies(key: str, shown: Sequence[Settings], *, by_count: bool = False) -> bool:
    """Whether a setting differs; with `by_count`, among runs with the same number of clients."""
    values = {(other.get("data.clients") if by_count else None, _plain(other.get(key))) for other in shown}
    return len(values) > len({count for count, _ in values})


def component_text(settings: Settings, component: str) -> str:
    """A component with all its hyperparameters: `sam(lr=0.1, rho=0.05)`."""
    return _call(settings, component, [key for key in settings if key.startswith(f"{component}.") and key != f"{component}.name"])


def _call(settings: Settings, component: str, keys: Sequence[str]) -> str:
    given = ", ".join(f"{key.removeprefix(f'{component}.')}={_plain(settings[key])}" for key in keys)
    return f"{settings.get(f'{component}.name')}({given})" if given else str(settings.get(f"{component}.name"))


def flatten(run: Run) -> dict[str, Any]:
    """Settings of a run by dotted key, with the dataset that was used."""
    return flat(run.config) | {"data.dataset": run.dataset}


def flat(settings: Settings) -> dict[str, Any]:
    """Settings by dotted key; `data.dataset` is the name of the dataset even where it has settings."""
    return {"data.dataset" if key == "data.dataset.name" else key: value for key, value in overrides.flatten(settings).items()}


def _plain(value: object) -> str:
    return json.dumps(value) if isinstance(value, list | bool) else str(value)
