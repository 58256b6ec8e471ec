"""`fedsam list`: list components and configs by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from importlib.metadata import entry_points
from typing import Annotated, Any

import typer
from rich.table import Table

from experiments.cli.output import print_table
from experiments.settings import names, shipped
from experiments.settings.presets import PRESETS
from fedsam import plugins
from fedsam.formatting import literal
from fedsam.wording import ConfigError

EXAMPLES = (
    "fedsam list",
    "fedsam list optimizers",
    "fedsam list optimizers sam esam",
    "fedsam list optimizers mine:MySAM",
    "fedsam list partitions --details",
)


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


def command(
    kind: Annotated[Kind | None, typer.Argument(metavar="[KIND]", show_default=False)] = None,
    components: Annotated[list[str] | None, typer.Argument(metavar="[NAME]...", show_default=False)] = None,
    details: Annotated[bool, typer.Option("--details", help="Settings, defaults, allowed values and sources of all.")] = False,
) -> None:
    """List what can be chosen by name.

    KIND is optimizers, corrections, strategies, methods, partitions, models, datasets, schedules, distributions, samplers, or configs for
    the files that come with fedsam; default: the names of all of them. With KIND, what each is.

    NAME, or --details for all, shows hyperparameters, defaults, allowed values and sources. NAME may be module:attribute.
    For optimizers, a second table has the passes of a step, as documented and as measured.
    """
    if components and kind in (None, Kind.CONFIGS):
        raise ConfigError(f"{components[0]!r} is not allowed: only the components of a kind have details")
    plugins.search()
    if components or details:
        for one in [kind] if kind else Kind:
            for table in _details(one, components or ()):
                print_table(table)
    elif kind:
        print_table(_meanings(kind))
    else:
        print_table(_names())


def _names() -> Table:
    """The names of all kinds."""
    result, installed = _table("kind", "names"), entry_points()
    for kind in Kind:
        result.add_row(kind, literal(", ".join(_meanings_by_name(kind, installed))))
    result.caption = "fedsam list KIND: what each is; fedsam list KIND NAME: its settings, limits and sources"
    return result


def _meanings(kind: Kind) -> Table:
    """The names of a kind, each with what it is."""
    if kind is Kind.METHODS:
        return _methods()
    result = _table("name", "meaning", title=kind)
    for name, meaning in _meanings_by_name(kind, entry_points()).items():
        result.add_row(literal(name), literal(meaning))
    if kind is not Kind.CONFIGS:
        result.caption = f"fedsam list {kind} NAME: settings, limits and sources, of module:attribute too; --details: of all"
    return result


def _methods() -> Table:
    """The methods, each with its components, its year, its paper and whose code backs its numbers."""
    result = _table("name", "optimizer x correction x strategy", title=Kind.METHODS)
    for column in ("year", "golden", "source"):
        result.add_column(column, overflow="fold")
    for name, preset in PRESETS.items():
        result.add_row(name, preset.expansion, str(preset.year), preset.golden, literal(preset.source))
    result.caption = (
        "golden: whose code computed the trajectory that a method is tested with: its authors', others' (reconstruction), or none but the "
        f"paper's equations. fedsam list {Kind.METHODS} NAME: settings and costs; --details: of all"
    )
    return result


def _table(first: str, second: str, title: str | None = None) -> Table:
    result = Table(title=title, title_justify="left", title_style="bold", header_style="bold", caption_justify="left")
    result.add_column(first, style="bold cyan", no_wrap=True)
    result.add_column(second, overflow="fold")
    return result


def _meanings_by_name(kind: Kind, installed: Any) -> Mapping[str, str]:
    if kind is Kind.CONFIGS:
        return {name: shipped.summary(path) for name, path in shipped.configs().items()}
    if kind is Kind.METHODS:
        return {name: preset.expansion for name, preset in PRESETS.items()}
    others = {name: f"From {plugins.origin(point)}." for name, point in plugins.entry_points(kind, installed).items()}
    return others | names.meanings(kind)


def _details(kind: Kind, components: Sequence[str]) -> Sequence[Table]:
    """All there is to say of some components of a kind, or of all."""
    if kind is Kind.CONFIGS:
        return [_meanings(kind)]
    from experiments.cli import console_tables

    return console_tables.shown(kind, components)
