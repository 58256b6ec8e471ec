"""The configs that come with fedsam, each known by the name of its file: `fedsam run quickstart`."""

from __future__ import annotations

import re
from pathlib import Path

from fedsam.wording import ConfigError, nearest

FOLDER = Path(__file__).parents[1] / "configs"


def configs() -> dict[str, Path]:
    """The files by name."""
    return {path.stem: path for path in sorted(FOLDER.glob("*.toml"))}


def find(given: Path) -> Path:
    """The config that `given` means: a file at that path, else the one of that name (with or without .toml) that comes with fedsam.

    Raises:
        ConfigError: `given` is a bare name and neither is there.
    """
    named, bare = configs(), given.name == str(given)
    if not bare or (given.exists() and not given.is_dir()):
        return given
    name = given.name.removesuffix(".toml")
    if name not in named:
        raise ConfigError(f"config: no file {str(given)!r} is here{nearest(name, list(named))}; these come with fedsam: {', '.join(named)}")
    return named[name]


def summary(path: Path) -> str:
    """The first sentence of the comment at the top of a config."""
    comment = re.match(r"(#.*\n)*", path.read_text())
    text = " ".join(line.lstrip("# ") for line in comment.group().splitlines()) if comment else ""
    return re.split(r"(?<=[.?!])\s", text, maxsplit=1)[0]
