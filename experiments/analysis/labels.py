"""What to call a run among others: its name, or the parts and settings in which it differs from them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from fedsam import overrides
from fedsam.results.rows import Run

METHOD = ("client.optimizer", "client.correction", "server.strategy")
PARTS = (*METHOD, "client.schedule", "data.partition", "model")
# They change no method, or have a column of their own.
UNLABELLED = {"name", "method", "seed", "runs_dir", "data.root", "data.fallback", "data.clients", "measure.target", "checkpoint.every"}
UNLABELLED |= {f"compute.{key}" for key in ("grid", "actors", "cpus_per_actor", "gpus_per_actor", "ray_address", "shard_size")}
SCALED = {"rounds", "budget", "server.participation"}  # may go with the number of clients, for all methods alike
Settings = Mapping[str, Any]


def labels(runs: Sequence[Run]) -> dict[str, str]:
    """A label for each run id: its name, its preset or its method's parts, with the settings in which the runs shown differ."""
    settings = {run.id: flatten(run) for run in runs}
    names = {run.id: run.name or run.config.get("method", "") for run in runs}
    peers = {name: [settings[run.id] for run in runs if names[run.id] == name] for name in names.values()}
    return {run.id: label(settings[run.id], peers[names[run.id]], names[run.id]) for run in runs}


def label(settings: Settings, shown: Sequence[Settings], name: str = "") -> str:
    """What to call the method of `settings` (flat) among those `shown`: `name`, or its optimizer and the parts that vary.

    >>> sgd, sam = {"client.optimizer.name": "sgd", "rounds": 3}, {"client.optimizer.name": "sam", "client.optimizer.rho": 0.1, "rounds": 3}
    >>> label(sam, [sgd, sam]), label(sam, [sgd, sam, sam | {"client.optimizer.rho": 0.2}]), label(sgd, [sgd, sgd | {"rounds": 9}])
    ('sam', 'sam(rho=0.1)', 'sgd, rounds=3')
    """
    varied = {part: text for part in PARTS if (text := _varied(settings, shown, part))}
    method = [varied[part] for part in METHOD if part in varied]
    if not name and "client.optimizer" not in varied:
        method.insert(0, settings["client.optimizer.name"])
    keys = [key for key in settings if key not in UNLABELLED and not any(key.startswith(f"{part}.") for part in PARTS)]
    rest = [f"{key.rpartition('.')[2]}={_plain(settings[key])}" for key in keys if _varies(key, shown, by_count=key in SCALED)]
    return ", ".join(
        filter(None, [name, " × ".join(method), *(varied[part] for part in PARTS if part in varied and part not in METHOD), *rest])
    )


def _varied(settings: Settings, shown: Sequence[Settings], part: str) -> str:
    """The part with the hyperparameters in which it varies among `shown`; empty when all have it alike."""
    name = settings.get(f"{part}.name")
    same = [other for other in shown if other.get(f"{part}.name") == name]
    keys = [key for key in settings if key.startswith(f"{part}.") and _varies(key, same)]
    return _call(settings, part, keys) if keys or len(same) < len(shown) else ""


def _varies(key: str, shown: Sequence[Settings], *, by_count: bool = False) -> bool:
    """Whether a setting differs, with `by_count` among runs with the same number of clients."""
    values = {(other.get("data.clients") if by_count else None, _plain(other.get(key))) for other in shown}
    return len(values) > len({count for count, _ in values})


def part_text(settings: Settings, part: str) -> str:
    """A part with all its hyperparameters: `sam(lr=0.1, rho=0.05)`."""
    return _call(settings, part, [key for key in settings if key.startswith(f"{part}.") and key != f"{part}.name"])


def _call(settings: Settings, part: str, keys: Sequence[str]) -> str:
    given = ", ".join(f"{key.removeprefix(f'{part}.')}={_plain(settings[key])}" for key in keys)
    return f"{settings.get(f'{part}.name')}({given})" if given else str(settings.get(f"{part}.name"))


def flatten(run: Run) -> dict[str, Any]:
    """A run's settings by dotted key, with the dataset that was really used."""
    return flat(run.config) | {"data.dataset": run.dataset}


def flat(settings: Settings) -> dict[str, Any]:
    """Settings by dotted key; the name of a dataset that has settings stands where that of another does."""
    return {"data.dataset" if key == "data.dataset.name" else key: value for key, value in overrides.flatten(settings).items()}


def _plain(value: object) -> str:
    return json.dumps(value) if isinstance(value, list | bool) else str(value)
