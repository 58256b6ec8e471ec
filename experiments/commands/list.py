"""`fedsam list`: what can be chosen by name."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from experiments.commands.output import print_table

EXAMPLES = ("fedsam list", "fedsam list optimizers", "fedsam list partitions | less")


class Kind(StrEnum):
    """What there are lists of."""

    OPTIMIZERS = "optimizers"
    CORRECTIONS = "corrections"
    STRATEGIES = "strategies"
    METHODS = "methods"
    PARTITIONS = "partitions"
    MODELS = "models"
    DATASETS = "datasets"
    SCHEDULES = "schedules"
    DISTRIBUTIONS = "distributions"
    SAMPLERS = "samplers"


def command(kind: Annotated[Kind | None, typer.Argument(metavar="[KIND]", show_default=False)] = None) -> None:
    """List what can be chosen by name, with hyperparameters, defaults, allowed values and sources.

    KIND is optimizers, corrections, strategies, methods, partitions, models, datasets, schedules, distributions or samplers; default:
    all of them.

    For optimizers, a second table has the passes of a step, as documented and as measured now; that takes a few seconds.
    """
    from experiments import catalogue, tables

    for name in [kind] if kind else list(Kind):
        for table in tables.shown(name, catalogue.TABLES[name]):
            print_table(table)
