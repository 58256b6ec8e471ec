"""`fedsam cluster`: files for running on many machines."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from fedsam.wording import ConfigError

EXAMPLES = ("fedsam cluster list", "fedsam cluster show readme", "fedsam cluster show aws > cluster.yaml")
FOLDER = Path(__file__).parents[2] / "deployment"


class Action(StrEnum):
    """Actions of the command."""

    LIST = "list"
    SHOW = "show"


def command(
    action: Annotated[Action, typer.Argument(metavar="list|show", show_default=False)],
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", show_default=False)] = None,
) -> None:
    """List the files for Ray's cluster launcher, Kubernetes and Slurm, or print the one called NAME.

    `fedsam cluster show readme` explains each of them.
    """
    files = {path.stem.lower(): path for path in sorted(FOLDER.iterdir()) if path.suffix != ".dockerignore"}
    if action is Action.LIST:
        for key, path in files.items():
            typer.echo(f"{key:12}{path}")
        return
    if name is None or name.lower() not in files:
        raise ConfigError(f"cluster: {name!r} is not known; allowed: {', '.join(files)}")
    typer.echo(files[name.lower()].read_text(), nl=False)
