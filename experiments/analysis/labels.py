"""Labels of runs: the name, or the components and settings in which a run differs from the others."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from fedsam import overrides
from fedsam.config import Published
from fedsam.formatting import plural, printable
from fedsam.results.rows import Run

METHOD_COMPONENTS = ("client.optimizer", "client.correction", "server.strategy")
COMPONENTS = (*METHOD_COMPONENTS, "client.schedule", "model")
# Left out of labels, as is everything about data: they change no method, or are a condition in which methods are compared.
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
    "callbacks",
    *(f"published.{key}" for key in Published.model_fields),
}
UNLABELLED |= {f"compute.{key}" for key in ("grid", "actors", "cpus_per_actor", "gpus_per_actor", "ray_address", "shard_size")}
PER_CONDITION = {"rounds", "budget", "server.participation"}  # compared among runs with the same data and number of clients
Settings = Mapping[str, Any]


def labels(runs: Sequence[Run], tuned: Collection[str] = ()) -> dict[str, str]:
    """A label of one line for each run id: its name, preset or components, with the settings in which the runs differ.

    Args:
        tuned: Settings by dotted key that were chosen for each condition, and are no part of a label where they differ between conditions.
    """
    texts = method_labels([flatten(run) for run in runs], [run.name or run.config.get("method", "") for run in runs], tuned)
    return {run.id: text for run, text in zip(runs, texts, strict=True)}


def method_labels(settings: Sequence[Settings], names: Sequence[str], tuned: Collection[str] = ()) -> list[str]:
    """As `labels`, for settings by dotted key.

    Args:
        names: The name or preset of each; may be empty.
    """
    lines = [(name, _but_seed(own)) for name, own in zip(names, settings, strict=True)]  # what differs in its seed is looked at once
    shown = dict(zip(lines, settings, strict=True))
    peers = {name: [own for (other, _), own in shown.items() if other == name] for name in names}
    found = {(name, line): label(own, peers[name], name, tuned) for (name, line), own in shown.items()}
    return [found[line] for line in lines]


def _but_seed(settings: Settings) -> str:
    return json.dumps({key: plain(value) for key, value in settings.items() if key != "seed"})


def label(settings: Settings, shown: Sequence[Settings], name: str = "", tuned: Collection[str] = ()) -> str:
    """Label of the method of `settings` (by dotted key) among those `shown`: `name`, or its optimizer and the components that vary.

    >>> sgd, sam = {"client.optimizer.name": "sgd", "rounds": 3}, {"client.optimizer.name": "sam", "client.optimizer.rho": 0.1, "rounds": 3}
    >>> label(sam, [sgd, sam]), label(sam, [sgd, sam, sam | {"client.optimizer.rho": 0.2}]), label(sgd, [sgd, sgd | {"rounds": 9}])
    ('sam', 'sam(rho=0.1)', 'sgd, rounds=3')
    """
    varied = {component: text for component in COMPONENTS if (text := component_variation(settings, shown, component, tuned))}
    method = [varied[component] for component in METHOD_COMPONENTS if component in varied]
    if not name and "client.optimizer" not in varied:
        method.insert(0, settings["client.optimizer.name"])
    apart = ("data.", *(f"{component}." for component in COMPONENTS))
    rest = [key for key in settings if key not in UNLABELLED and not key.startswith(apart) and _varies(key, shown, tuned)]
    texts = [f"{key.rpartition('.')[2]}={plain(settings[key])}" for key in rest]
    others = [varied[component] for component in COMPONENTS if component in varied and component not in METHOD_COMPONENTS]
    return printable(", ".join(filter(None, [name, " × ".join(method), *others, *texts])))


def component_variation(settings: Settings, shown: Sequence[Settings], component: str, tuned: Collection[str] = ()) -> str:
    """The component with the hyperparameters in which it varies among `shown`, `tuned` as of `labels`; empty where it does not vary."""
    name = settings.get(f"{component}.name")
    same = [other for other in shown if other.get(f"{component}.name") == name]
    keys = [key for key in settings if key.startswith(f"{component}.") and _varies(key, same, tuned)]
    return _call(settings, component, keys) if keys or len(same) < len(shown) else ""


def _varies(key: str, shown: Sequence[Settings], tuned: Collection[str]) -> bool:
    """Whether a setting differs; one of `PER_CONDITION` and of `tuned`, among runs with the same data and number of clients."""
    within = key in PER_CONDITION or key in tuned
    values = {(_condition(other) if within else "", plain(other.get(key))) for other in shown}
    return len(values) > len({condition for condition, _ in values})


def _condition(settings: Settings) -> str:
    return json.dumps([[key, plain(settings[key])] for key in sorted(settings) if key == "data.clients" or is_about_data(key)])


def comparable_text(dataset: str, examples: int | None, budget: int | None, rounds: int | None) -> str:
    """What runs must share to be compared, in words: the dataset, its examples and the length of a run."""
    length = f"{budget:,} gradient evaluations" if budget else plural(rounds or 0, "round")
    return ", ".join(filter(None, [dataset, f"{examples:,} examples" if examples else "", length]))


def is_about_data(key: str) -> bool:
    """Whether a setting says on which data runs are made, the number of clients apart."""
    return key.startswith("data.") and key not in UNLABELLED


def component_text(settings: Settings, component: str) -> str:
    """A component with all its hyperparameters: `sam(lr=0.1, rho=0.05)`."""
    return _call(settings, component, [key for key in settings if key.startswith(f"{component}.") and key != f"{component}.name"])


def _call(settings: Settings, component: str, keys: Sequence[str]) -> str:
    given = ", ".join(f"{key.removeprefix(f'{component}.')}={plain(settings[key])}" for key in keys)
    return f"{settings.get(f'{component}.name')}({given})" if given else str(settings.get(f"{component}.name"))


def flatten(run: Run) -> dict[str, Any]:
    """Settings of a run by dotted key, with the dataset that was used."""
    return flat(run.config) | {"data.dataset": run.dataset}


def flat(settings: Settings) -> dict[str, Any]:
    """Settings by dotted key; `data.dataset` is the name of the dataset even where it has settings."""
    return {"data.dataset" if key == "data.dataset.name" else key: value for key, value in overrides.flatten(settings).items()}


def plain(value: object) -> str:
    """A value of a setting as text."""
    return json.dumps(value) if isinstance(value, list | bool) else str(value)
