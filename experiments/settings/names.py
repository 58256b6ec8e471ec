"""The kinds of our components and their names."""

from __future__ import annotations

from typing import NamedTuple

from experiments.settings import descriptions


class Kind(NamedTuple):
    """A kind of components: what one is called, and the setting that names one."""

    noun: str
    setting: str


KINDS = {
    "optimizers": Kind("local optimizer", "client.optimizer"),
    "corrections": Kind("correction", "client.correction"),
    "strategies": Kind("server strategy", "server.strategy"),
    "partitions": Kind("partition", "data.partition"),
    "models": Kind("model", "model"),
    "datasets": Kind("dataset", "data.dataset"),
    "schedules": Kind("schedule", "client.schedule"),
    "distributions": Kind("distribution", "simulate.speed"),
    "samplers": Kind("sampler", "server.sampling"),
}
ADAM = 'it is the base of a local optimizer: client.optimizer = { name = "sgd", base = "adamw" }'


def names(kind: str) -> list[str]:
    """The names of a kind, in the order of its registry; for custom datasets the forms of their names."""
    return [name for name in descriptions.of(kind) if name != "module:factory"]


def meanings(kind: str) -> dict[str, str]:
    """The names of a kind, each with what it is."""
    return {name: descriptions.of(kind)[name].summary for name in names(kind)}


def hint(name: str) -> str:
    """What else a name stands for, and how that is set; empty where it is the name of no component."""
    kinds = [kind for key, kind in KINDS.items() if name in names(key)]
    hints = [f'it is a {kind.noun}: {kind.setting} = "{name}"' for kind in kinds]
    return " or ".join([*hints, ADAM] if name in ("adam", "adamw") else hints)
