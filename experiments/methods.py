"""Presets: a published algorithm as its three parts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fedsam.config import ConfigError, Experiment, override, parse


@dataclass(frozen=True)
class Method:
    """A published algorithm: local optimizer x correction x server rule, with its published settings.

    Attributes:
        source: Paper, and whose settings the defaults are.
        settings: Dotted keys of the experiment that the preset sets; the experiment's own settings win over them.
    """

    source: str
    settings: Mapping[str, Any] = field(default_factory=dict)


METHODS: dict[str, Method] = {
    "fedavg": Method(
        "McMahan et al., 2017, arXiv:1602.05629",
        {"client.optimizer.name": "sgd", "client.correction.name": "none", "server.strategy.name": "fedavg"},
    ),
    "fedprox": Method(
        "Li et al., 2020, arXiv:1812.06127; mu as in FL-Simulator",
        {
            "client.optimizer.name": "sgd",
            "client.correction.name": "proximal",
            "client.correction.mu": 0.1,
            "server.strategy.name": "fedavg",
        },
    ),
    "fedsam": Method(
        "Qu et al., 2022, arXiv:2206.02618 and Caldarola et al., 2022, arXiv:2203.11834; rho as in FL-Simulator",
        {"client.optimizer.name": "sam", "client.optimizer.rho": 0.1, "client.correction.name": "none", "server.strategy.name": "fedavg"},
    ),
}


def expand(settings: Mapping[str, Any]) -> Experiment:
    """The experiment of plain `settings`, with its preset's parts filled in where the settings leave them open.

    Raises:
        ConfigError: As `fedsam.config.parse`, and for an unknown preset.
    """
    name = settings.get("method")
    if name is None:
        return parse(settings)
    if name not in METHODS:
        raise ConfigError(f"method: {name!r} is not known; allowed: {', '.join(sorted(METHODS))}")
    given = override({}, dict(_leaves(parse(settings).model_dump(mode="json", exclude_unset=True))))
    return parse(override({}, {**METHODS[name].settings, **dict(_leaves(given))}))


def _leaves(table: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Every value of nested tables under its dotted key."""
    leaves: list[tuple[str, Any]] = []
    for key, value in table.items():
        leaves += _leaves(value, f"{prefix}{key}.") if isinstance(value, dict) else [(prefix + key, value)]
    return leaves
