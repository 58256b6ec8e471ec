"""The configs that come with fedsam, each known by the name of its file: `fedsam run quickstart`, `fedsam run papers/fedswa_cifar10`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from fedsam import overrides
from fedsam.wording import ConfigError, nearest

FOLDER = Path(__file__).parents[1] / "configs"


def configs() -> dict[str, Path]:
    """The files by name; those in a folder after the others, as `folder/name`."""
    paths = sorted([*FOLDER.glob("*.toml"), *FOLDER.glob("*/*.toml")], key=lambda path: (path.parent != FOLDER, path))
    return {path.relative_to(FOLDER).with_suffix("").as_posix(): path for path in paths}


def find(given: Path) -> Path:
    """The config that `given` means: a file at that path, else the one of that name (with or without .toml) that comes with fedsam.

    Raises:
        ConfigError: `given` is a bare name and neither is there.
    """
    named, name = configs(), given.as_posix().removesuffix(".toml")
    if (given.name != str(given) and name not in named) or (given.exists() and not given.is_dir()):
        return given
    if name not in named:
        raise ConfigError(f"config: no file {str(given)!r} is here{nearest(name, list(named))}; these come with fedsam: {', '.join(named)}")
    return named[name]


def of_one_seed(path: Path) -> dict[str, Any]:
    """The settings of a config, of one seed and before tuning: whatever it compares, once. Raises as `fedsam.overrides.read`."""
    settings = {key: value for key, value in overrides.read(path).items() if key != "tune"}
    return settings | ({"sweep": {**settings["sweep"], "seeds": [0]}} if "seeds" in settings.get("sweep", {}) else {})


def summary(path: Path) -> str:
    """The first sentence of the comment at the top of a config."""
    comment = re.match(r"(#.*\n)*", path.read_text())
    text = " ".join(line.lstrip("# ") for line in comment.group().splitlines()) if comment else ""
    return re.split(r"(?<=[.?!])\s", text, maxsplit=1)[0]
