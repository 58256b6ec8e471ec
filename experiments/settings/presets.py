"""Presets: a published algorithm as its three components, with the recipe it was published with.

To compare methods and nothing else, set the recipe (learning rate, decay, clip, weights, sampling) in the experiment: it wins over them.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from experiments.settings import names
from fedsam.overrides import flatten, override
from fedsam.renamed import with_current_names
from fedsam.wording import ConfigError, UnknownNameError, nearest, shown

if TYPE_CHECKING:
    from fedsam.config import Experiment

PRESETS_PATH = Path(__file__).with_suffix(".toml")
COMPONENT_KEYS = ("client.optimizer", "client.correction", "server.strategy")
Backing = Literal["authors", "reconstruction", "equations", "none"]
# Hyperparameters that every local optimizer has.
SHARED = ("client.optimizer.lr", "client.optimizer.weight_decay", "client.optimizer.momentum", "client.optimizer.clip_norm")


@contextmanager
def unknown_names() -> Iterator[None]:
    """Inside the block, the error of a name that is not known says where it is known."""
    try:
        yield
    except UnknownNameError as error:
        method = f'it is a method: method = "{error.name}"' if error.name in PRESETS else ""
        hint = " or ".join(filter(None, [method, names.hint(error.name)]))
        raise (error.with_hint(hint) if hint else error) from None


@dataclass(frozen=True)
class Preset:
    """A published algorithm: local optimizer x correction x server strategy, with its published settings.

    Attributes:
        source: Paper, and whose settings the defaults are.
        year: Of the paper.
        golden: Whose code computed the trajectory that the preset is tested with.
        settings: Dotted keys of the experiment that the preset sets; the experiment's own settings win over them.
    """

    source: str
    year: int
    golden: Backing
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def expansion(self) -> str:
        """The names of the three components, with those inside them in brackets."""
        return " x ".join(map(self._named, COMPONENT_KEYS))

    def _named(self, key: str) -> str:
        """The name of a component, with those inside it in brackets."""
        inner = f"{key}.inner"
        return f"{self.settings[f'{key}.name']}{f' ({self._named(inner)})' if f'{inner}.name' in self.settings else ''}"


def _read() -> dict[str, Preset]:
    tables = tomllib.loads(PRESETS_PATH.read_text(encoding="utf-8"))
    return {name: _preset(tables["recipes"], **table) for name, table in tables["presets"].items()}


def _preset(recipes: Mapping[str, Any], source: str, year: int, golden: Backing, recipe: str | None = None, **settings: Any) -> Preset:
    return Preset(source, year, golden, {**flatten(recipes[recipe] if recipe else {}), **flatten(settings)})


# Read at import: the catalogue lists the presets among its tables, which are plain mappings, and whoever imports this expands them.
PRESETS: Mapping[str, Preset] = _read()


def expand(settings: Mapping[str, Any]) -> Experiment:
    """The experiment of plain `settings`, with its preset's settings filled in where they leave them open.

    Where the settings name another component than the preset does, the preset's hyperparameters of that component go, but for those that
    every local optimizer has.

    Raises:
        ConfigError: As `fedsam.config.parse`, and for an unknown preset.
    """
    from fedsam.config import parse  # takes longer than all that `fedsam list` does

    if not isinstance(settings, Mapping):
        raise ConfigError(f"{shown(settings)} is not allowed as an experiment: must be a table of settings")
    settings = with_current_names(dict(settings))
    name = settings.get("method")
    if not isinstance(name, str):
        return parse(settings)
    if name not in PRESETS:
        known = f": {found}" if (found := names.hint(name)) else nearest(name, list(PRESETS))
        raise ConfigError(f"method: {name!r} is not known{known}; allowed: {', '.join(sorted(PRESETS))}")
    preset = dict(PRESETS[name].settings)
    own = {f"{key}.name" if f"{key}.name" in preset else key: value for key, value in flatten(settings).items()}
    for component in [key.removesuffix(".name") for key in preset if key.endswith(".name")]:
        if own.get(f"{component}.name", preset.get(f"{component}.name")) != preset.get(f"{component}.name"):
            preset = {key: value for key, value in preset.items() if key in SHARED or not key.startswith(f"{component}.")}
    return parse(override({}, {**preset, **own}))
