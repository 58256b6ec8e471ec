"""`fedsam explain`: say what a setting means."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from experiments.cli.output import print_line, print_table
from fedsam.formatting import literal

if TYPE_CHECKING:
    from experiments.reference import settings
    from experiments.reference.lookup import Hyperparameter

EXAMPLES = (
    "fedsam explain",
    "fedsam explain client",
    "fedsam explain client.optimizer",
    "fedsam explain client.optimizer.rho",
)


def _complete_key(incomplete: str) -> list[str]:
    from experiments.reference.settings import settings

    return [key for key in settings() if key.startswith(incomplete)]


Key = Annotated[str | None, typer.Argument(metavar="[KEY]", autocompletion=_complete_key, show_default=False)]


def command(key: Key = None) -> None:
    """Say what a setting means, what it may be, and its default.

    KEY is dotted, as after -o: a table of settings (client), a setting (client.epochs), one that names a component (client.optimizer,
    with all that it may be), or a hyperparameter (client.optimizer.rho, with the components that have it). Without KEY: all settings.
    """
    from experiments.reference import settings
    from experiments.reference.lookup import Hyperparameter, find

    if key is None:
        for table in settings.tables():
            print_table(_settings(table))
        print_line("\nfedsam explain KEY: one of them, or a hyperparameter such as client.optimizer.rho")
        return
    found = find(key)
    if isinstance(found, Hyperparameter):
        _print_hyperparameter(found)
    elif isinstance(found, settings.Table):
        print_table(_settings(found))
        for table in settings.tables():
            if table.key.startswith(f"{found.key}."):
                print_table(_settings(table))
    else:
        _print_setting(found)


def _settings(table: settings.Table) -> Table:
    result = _table(table.key, "setting", "default", "allowed", "meaning")
    result.caption = table.meaning
    for one in table.settings:
        result.add_row(*map(literal, (one.key, one.default, one.allowed, one.meaning)))
    return result


def _print_setting(setting: settings.Setting) -> None:
    facts = {"meaning": setting.meaning, "allowed": setting.allowed, "default": setting.default or "must be given"}
    if not setting.kind:
        print_table(_facts(setting.key, facts))
        return
    facts["component"] = 'a name, "NAME", or a table with hyperparameters, { name = "NAME", ... }; module:attribute is one of your own'
    print_table(_facts(setting.key, facts))
    from experiments.settings import names

    choices = _table(f"{setting.kind} for {setting.key}", "name", "meaning")
    for name, meaning in names.meanings(setting.kind).items():
        choices.add_row(literal(name), literal(meaning))
    choices.caption = f"fedsam list {setting.kind} NAME: its hyperparameters, limits and source"
    print_table(choices)


def _print_hyperparameter(found: Hyperparameter) -> None:
    if len(found.uses) == 1:
        (use,) = found.uses
        facts = {"meaning": use.meaning, "allowed": use.allowed, "default": use.default or "must be given", "of": ", ".join(use.names)}
        print_table(_facts(found.key, facts))
        return
    result = _table(found.key, "of", "default", "allowed", "meaning")
    for use in found.uses:
        result.add_row(*map(literal, (", ".join(use.names), use.default, use.allowed, use.meaning)))
    result.caption = f"fedsam list {found.kind} NAME: all hyperparameters of one"
    print_table(result)


def _facts(title: str, facts: dict[str, str]) -> Table:
    result = Table(title=literal(title), title_justify="left", title_style="bold", show_header=False, box=None)
    result.add_column(style="cyan", no_wrap=True)
    result.add_column(overflow="fold", max_width=100)
    for name, text in facts.items():
        result.add_row(name, literal(text))
    return result


def _table(title: str, first: str, *others: str) -> Table:
    result = Table(title=literal(title), title_justify="left", title_style="bold", header_style="bold", caption_justify="left")
    result.add_column(first, style="bold cyan", overflow="fold", max_width=36)
    for column in others:
        result.add_column(column, overflow="fold", max_width=80)
    return result
