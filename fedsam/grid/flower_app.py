"""A Flower app directory: what its pyproject.toml says, and its two apps. Flower's private helpers that this takes are imported here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from click import ClickException
from flwr.clientapp import ClientApp
from flwr.clientapp.client_app import LoadClientAppError
from flwr.common.config import flatten_dict, get_project_config, parse_config_args
from flwr.serverapp import ServerApp
from flwr.serverapp.server_app import LoadServerAppError
from flwr.supercore.object_ref import load_app, validate

from fedsam.config import ConfigError
from fedsam.imports import prefer_others
from fedsam.plugins import component_errors
from fedsam.wording import nearest

Value = bool | int | float | str
COMPONENTS = "tool.flwr.app.components"


@dataclass(frozen=True)
class FlowerApp:
    """An app as Flower's documentation describes it.

    Attributes:
        folder: Holds pyproject.toml, and goes to `sys.path` when an app is loaded.
        server: The ServerApp as `module:attribute`.
        client: The ClientApp likewise.
        run_config: `context.run_config` of both: dotted keys, the overrides applied.
        supernodes: Number of nodes that pyproject.toml asks for; None where it does not.
    """

    folder: Path
    server: str
    client: str
    run_config: Mapping[str, Value]
    supernodes: int | None

    @classmethod
    def read(cls, folder: Path, overrides: Sequence[str] = ()) -> FlowerApp:
        """The app in `folder`; overrides are as `flwr run --run-config` takes them: `"k=v k2=v2"`, repeated, or one TOML file.

        From now on this process finds modules as Python does: the app's may have names of our packages.

        Raises:
            ConfigError: The directory is no Flower app, an app's module or attribute is not there, or an override is not allowed.
        """
        prefer_others()
        folder = folder.expanduser().absolute()
        try:
            project = get_project_config(folder)
        except (OSError, ValueError) as error:  # of which TOMLDecodeError is one
            raise ConfigError(f"{folder}: not a Flower app: {error}") from None
        flower = project["tool"]["flwr"]
        components, defaults = flower["app"]["components"], flatten_dict(flower["app"].get("config"))
        for key in ("serverapp", "clientapp"):
            if key not in components:
                raise ConfigError(f"{folder}: not a Flower app with a ServerApp and a ClientApp: [tool.flwr.app.components] has no {key}")
            with component_errors(f"{COMPONENTS}.{key}", str(components[key])):  # Flower imports the packages around a module
                valid, reason = validate(components[key], project_dir=folder)
            if not valid:
                raise ConfigError(f"{COMPONENTS}.{key}: {components[key]!r} is not allowed: {str(reason).partition(chr(10))[0]}")
        config = {**defaults, **_overrides(overrides, defaults)}
        return cls(folder, components["serverapp"], components["clientapp"], config, _supernodes(flower.get("federations", {})))

    def load_server(self) -> ServerApp:
        """The ServerApp, imported into this process."""
        with component_errors(f"{COMPONENTS}.serverapp", self.server):
            return _loaded(load_app(self.server, LoadServerAppError, self.folder), ServerApp, "serverapp", self.server)

    def load_client(self) -> ClientApp:
        """The ClientApp, imported into this process."""
        with component_errors(f"{COMPONENTS}.clientapp", self.client):
            return _loaded(load_app(self.client, LoadClientAppError, self.folder), ClientApp, "clientapp", self.client)


App = TypeVar("App", ClientApp, ServerApp)


def _loaded(found: object, kind: type[App], key: str, reference: str) -> App:
    if not isinstance(found, kind):
        raise ConfigError(f"{COMPONENTS}.{key}: {reference!r} is not allowed: it is a {type(found).__name__}")
    return found


def _overrides(given: Sequence[str], defaults: Mapping[str, Value]) -> dict[str, Value]:
    try:
        overrides: dict[str, Value] = parse_config_args(list(given))
    except (OSError, ValueError) as error:
        raise ConfigError(f"run-config: {' '.join(given)!r} is not allowed: {error}") from None
    except ClickException as error:
        raise ConfigError(f"run-config: {' '.join(given)!r} is not allowed: {error.message}") from None
    if given and not overrides:
        raise ConfigError(f"run-config: {' '.join(given)!r} is not allowed: it is 'key=value key2=value2' or a file that ends in .toml")
    for key in overrides:
        if key not in defaults:
            raise ConfigError(f"run-config.{key}: unknown key{nearest(key, list(defaults))}; allowed: {', '.join(sorted(defaults))}")
    return overrides


def _supernodes(federations: Mapping[str, Any]) -> int | None:
    """`options.num-supernodes` of the default federation, or of the only one."""
    tables = {name: table for name, table in federations.items() if isinstance(table, dict)}
    name = federations.get("default", next(iter(tables)) if len(tables) == 1 else None)
    found = tables.get(name, {}).get("options", {}).get("num-supernodes")
    return found if isinstance(found, int) else None
