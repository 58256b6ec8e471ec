"""The four packages of this project are imported from the folder of this file, whatever else has their names.

A user's own modules may be called `clients`, `strategies` or `experiments`, and lie in the working directory, beside a script or on
PYTHONPATH, all of which Python, or Ray in its workers, searches first. Half of theirs and half of ours would run then, or neither.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

from fedsam.wording import ConfigError

PACKAGES = ("fedsam", "clients", "strategies", "experiments")
ROOT = Path(__file__).resolve().parents[1]


class _OwnFinder(MetaPathFinder):
    """Finds the four packages in `ROOT`; what is in them is then found by Python."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        return PathFinder.find_spec(name, [str(ROOT)]) if path is None and name in PACKAGES else None


_FINDER = _OwnFinder()


def require(package: str, wanted_by: str) -> None:
    """Nothing, where the package is installed; its module must have its name.

    Raises:
        ConfigError: It is not installed; the message says how to install it.
    """
    if find_spec(package) is None:
        raise ConfigError(f"{wanted_by}: needs the package {package}, which is not installed; install it with: pip install {package}")


def prefer_own() -> None:
    """From now on, import the four packages from `ROOT`.

    Raises:
        ConfigError: A module of one of these names was imported from elsewhere before.
    """
    for name in PACKAGES:
        module = sys.modules.get(name)
        if module is not None and (found := _place(module)) not in (None, ROOT / name):
            raise ConfigError(f"{found}: is not allowed here: fedsam needs the name {name!r} for a package of its own; rename this one")
    if _FINDER not in sys.meta_path:
        sys.meta_path.insert(0, _FINDER)


def prefer_others(*folders: Path) -> None:
    """From now on, import modules as Python finds them, in `folders` first: those of a Flower app may have our packages' names.

    Undoes `prefer_own`. Modules of ours that have the name of one of theirs are out of `sys.modules`: only modules that have imported them
    before go on with them.
    """
    if _FINDER in sys.meta_path:
        sys.meta_path.remove(_FINDER)
    first = [str(folder) for folder in folders]
    sys.path[:] = [*first, *(entry for entry in sys.path if entry not in first)]
    importlib.invalidate_caches()
    theirs: dict[str, Sequence[str]] = {"": sys.path}  # where the submodules of each are
    for name in sorted(name for name in sys.modules if name.partition(".")[0] in PACKAGES):
        path = theirs.get(name.rpartition(".")[0])
        spec = None if path is None else PathFinder.find_spec(name, path)
        if spec is not None and not _is_own(spec):
            theirs[name] = list(spec.submodule_search_locations or ())
            if (module := sys.modules[name]).__spec__ is None or _is_own(module.__spec__):
                del sys.modules[name]


def _is_own(spec: ModuleSpec) -> bool:
    """Whether a module is in `ROOT`, that is in one of the four packages there."""
    places = [spec.origin] if spec.origin else list(spec.submodule_search_locations or ())
    return any(Path(place).resolve().is_relative_to(ROOT / spec.name.partition(".")[0]) for place in places)


def _place(module: ModuleType) -> Path | None:
    """The folder of a package, the file of another module; None where it has neither."""
    for path in getattr(module, "__path__", []):
        return Path(path).resolve()
    file = getattr(module, "__file__", None)
    return Path(file).resolve() if file else None
