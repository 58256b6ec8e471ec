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
App = TypeVar("App", ClientApp, ServerApp)
DEFAULT_SUPERNODES = 2  # as `flwr.supercore.constant.DEFAULT_SIMULATION_CONFIG`
COMPONENTS = "tool.flwr.app.components"


@dataclass(frozen=True)
class FlowerApp:
    """An app as Flower's documentation describes it.

    Attributes:
        folder: Holds pyproject.toml, and goes to `sys.path`, with a folder `src` in it, when an app is loaded.
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

        From now on this process finds the app's modules first, which may have names of our packages.

        Raises:
            ConfigError: The directory is no Flower app, an app's module or attribute is not there, or an override is not allowed.
        """
        folder = folder.expanduser().absolute()
        try:
            project = get_project_config(folder)
        except (OSError, ValueError) as error:  # of which TOMLDecodeError is one
            raise ConfigError(f"{folder}: not a Flower app: {error}") from None
        prefer_others(*_places(folder))
        flower = project["tool"]["flwr"]
        components, defaults = flower["app"]["components"], flatten_dict(flower["app"].get("config"))
        for key in ("serverapp", "clientapp"):
            if key not in components:
                raise ConfigError(f"{folder}: not a Flower app with a ServerApp and a ClientApp: [tool.flwr.app.components] has no {key}")
            _check(key, components[key], folder)
        config = {**defaults, **_overrides(overrides, defaults)}
        return cls(folder, components["serverapp"], components["clientapp"], config, _supernodes(flower.get("federations", {})))

    def load_server(self) -> ServerApp:
        """The ServerApp, imported into this process."""
        return self._load(self.server, LoadServerAppError, ServerApp, "serverapp")

    def load_client(self) -> ClientApp:
        """The ClientApp, imported into this process."""
        return self._load(self.client, LoadClientAppError, ClientApp, "clientapp")

    def _load(self, reference: str, error_type: type[Exception], kind: type[App], key: str) -> App:
        prefer_others(*_places(self.folder))
        with component_errors(f"{COMPONENTS}.{key}", reference):
            try:
                found = load_app(reference, error_type, self.folder)
            except (ImportError, error_type) as error:
                raise _refused(key, reference, f"{error}; what it imports must be installed here, or lie in {self.folder}") from error
            except SystemExit as end:
                raise _refused(key, reference, f"importing it ends the process: SystemExit: {end}") from end
        if not isinstance(found, kind):
            raise _refused(key, reference, f"it is a {type(found).__name__}")
        return found


def _places(folder: Path) -> list[Path]:
    """Where an app's modules are: in its folder, or in `src` there."""
    return [folder, folder / "src"] if (folder / "src").is_dir() else [folder]


def _check(key: str, reference: str, folder: Path) -> None:
    """Raise `ConfigError` where an app's module or attribute is not there."""
    try:
        valid, reason = validate(reference, project_dir=folder)
    except (ImportError, SyntaxError, ValueError, OSError) as error:  # packages that hold the module are imported
        valid, reason = False, f"{type(error).__name__}: {error}"
    if not valid:
        searched = ", ".join(map(str, _places(folder)))
        raise _refused(key, reference, f"{str(reason).partition(chr(10))[0]}; searched first: {searched}")


def _refused(key: str, reference: str, why: str) -> ConfigError:
    return ConfigError(f"{COMPONENTS}.{key}: {reference!r} is not allowed: {why}")


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
