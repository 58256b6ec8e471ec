"""Server strategies: how the updates of a cohort become the next global vector."""

from __future__ import annotations

from fedsam import config
from strategies.base import ServerRule
from strategies.fedavg import FedAvg

STRATEGIES: dict[str, type[ServerRule]] = {
    "fedavg": FedAvg,
}


def build(part: config.Part) -> ServerRule:
    """The strategy that `server.strategy` names. Raises `ConfigError` for an unknown name or a wrong hyperparameter."""
    rule: ServerRule = config.build(STRATEGIES, part, "server.strategy")
    return rule
