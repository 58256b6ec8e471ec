"""`fedsam new`: write a project with custom components."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Annotated

import typer

from fedsam.wording import ConfigError

EXAMPLES = ("fedsam new my_experiments", "cd my_experiments && fedsam run config.toml")
TEMPLATE = "project_template"
FILES = ("config.toml", "mine.py", "test_mine.py", "README.md")


def command(folder: Annotated[Path, typer.Argument(metavar="DIR", show_default=False)]) -> None:
    """Write a small project into DIR: a model, a local optimizer, a server strategy and a dataset of its own, and what tries them.

    It needs no network and no files. DIR must be empty, or is made.
    """
    write(folder)
    typer.echo(
        f"{folder}: {', '.join(FILES)}. Next:\n\n    cd {folder}\n    fedsam run config.toml\n    fedsam check mine:HalfSAM\n    pytest"
    )


def write(folder: Path) -> None:
    """Write the files of the project; the folder is created if it is missing.

    Raises:
        ConfigError: The folder is not empty, or cannot be created.
    """
    try:
        if folder.is_dir() and any(folder.iterdir()):
            raise ConfigError(f"{folder}: is not allowed: it is not empty")
        folder.mkdir(parents=True, exist_ok=True)
        for name in FILES:
            (folder / name).write_bytes(resources.files("experiments").joinpath(TEMPLATE, name).read_bytes())
    except OSError as error:
        raise ConfigError(f"{folder}: is not allowed: it cannot be written ({error.strerror})") from None
