"""The page about the command line."""

from __future__ import annotations

import inspect
from collections.abc import Iterator

import click
import typer

from experiments.cli.main import COMMANDS, app
from experiments.documentation.markdown import block, code, escaped, page, table


def commands_page() -> str:
    """What each command does, its options, and examples."""
    group = typer.main.get_command(app)
    assert isinstance(group, click.Group)
    parts = [escaped(f"{group.help} `fedsam COMMAND --help` prints what is said here.")]
    for name, module in COMMANDS.items():
        command = group.commands[name]
        context = click.Context(command, info_name=f"fedsam {name}")
        usage = " ".join([f"fedsam {name}", *command.collect_usage_pieces(context)])
        paragraphs = [escaped(" ".join(one.split())) for one in inspect.cleandoc(command.help or "").split("\n\n")]
        parts += [f"## {name}", block(usage, "text"), *paragraphs, _options(command, context), block("\n".join(module.EXAMPLES), "bash")]
    return page("Commands", *parts)


def _options(command: click.Command, context: click.Context) -> str:
    rows = list(_rows(command, context))
    return table(["option", "meaning"], rows) if rows else ""


def _rows(command: click.Command, context: click.Context) -> Iterator[tuple[str, str]]:
    for option in command.params:
        if isinstance(option, click.Option) and (record := option.get_help_record(context)):
            yield code(record[0]), escaped(record[1].replace("\\[", "["))
