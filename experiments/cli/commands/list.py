"""`fedsam list`: list components and configs by name."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from experiments.cli.output import print_table
from experiments.settings import shipped

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.table import Table

EXAMPLES = ("fedsam list", "fedsam list configs", "fedsam list optimizers", "fedsam list partitions | less")


class Kind(StrEnum):
    """Kinds of entries."""

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
    CONFIGS = "configs"


def command(kind: Annotated[Kind | None, typer.Argument(metavar="[KIND]", show_default=False)] = None) -> None:
    """List what can be chosen by name, with hyperparameters, defaults, allowed values and sources.

    KIND is optimizers, corrections, strategies, methods, partitions, models, datasets, schedules, distributions, samplers, or configs for
    the files that come with fedsam; default: all of them.

    For optimizers, a second table has the passes of a step, as documented and as measured now; that takes a few seconds.
    """
    for name in [kind] if kind else list(Kind):
        for table in _tables(name):
            print_table(table)


def _tables(kind: Kind) -> Sequence[Table]:
    if kind is Kind.CONFIGS:
        return [shipped.table()]
    from experiments.cli import console_tables
    from experiments.settings import catalogue

    return console_tables.shown(kind, catalogue.TABLES[kind])
