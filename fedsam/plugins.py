"""Components from outside: `module:attribute` references, the folders in which their modules are searched, and entry points.

A module is imported as Python does it, and besides from the search folders: that of the configuration file, and the working directory.
They stand behind everything that is installed. What was imported from there is kept with its source: other processes import that source,
and a run's provenance has its hash.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import re
import sys
import traceback
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import reduce
from pathlib import Path
from types import ModuleType
from typing import Any

from fedsam.module_sources import Source, SourceFinder, forget, is_installed, source_of
from fedsam.wording import ConfigError, nearest

REFERENCE = re.compile(r"[A-Za-z_]\w*(\.\w+)*:[A-Za-z_]\w*(\.\w+)*")


# A process has one `sys.path` and one `sys.modules`; these say what of them came from here.
_searched: list[str] = []  # the search folders
_appended: list[str] = []  # those of them that `sys.path` did not have
_imported_sources: dict[str, Source | None] = {}  # by top-level module; None: installed, or not of files


def have_run() -> bool:
    """Whether this process has imported anything that is somebody's own."""
    return bool(_imported_sources)


def is_reference(name: str) -> bool:
    """Whether a name has the form `module:attribute`.

    >>> is_reference("mine:MyOptimizer"), is_reference("sam"), is_reference("10.0.0.1:6379")
    (True, False, False)
    """
    return REFERENCE.fullmatch(name) is not None


def search(*folders: Path) -> None:
    """Search modules in these folders and in the working directory from now on, in place of the folders of an earlier call.

    What was imported from there and is no more what would be found is imported again when it is asked for.
    """
    for folder in _appended:
        if folder in sys.path:
            sys.path.remove(folder)
    _searched[:] = dict.fromkeys(str(folder.absolute()) for folder in (*folders, Path.cwd()))
    _appended[:] = [folder for folder in _searched if folder not in sys.path]
    sys.path.extend(_appended)
    refresh()


def refresh() -> None:
    """Forget imported modules whose files have changed since."""
    importlib.invalidate_caches()
    for source in [source for source in _imported_sources.values() if source is not None and source.changed()]:
        del _imported_sources[source.name]
        forget(source)


def load(reference: str, where: str) -> Any:
    """What `module:attribute` names.

    Args:
        where: The key of the setting, for messages.

    Raises:
        ConfigError: It is not of that form, there is no such module or attribute, or the module cannot be imported.
    """
    refused = f"{where}: {reference!r} is not allowed"
    if not is_reference(reference):
        raise ConfigError(f"{refused}: a component from elsewhere is written module:attribute")
    name, _, attribute = reference.partition(":")
    module = _imported(name, refused)
    try:
        return reduce(getattr, attribute.split("."), module)
    except AttributeError:
        hint = nearest(attribute, [known for known in vars(module) if not known.startswith("_")])
        raise ConfigError(f"{refused}: {getattr(module, '__file__', None) or name} has no {attribute}{hint}") from None


def sources(references: Iterable[str]) -> tuple[Source, ...]:
    """The modules of loaded references that are not installed, each once, by name.

    Raises:
        ConfigError: A reference is to the script or notebook that runs, which other processes cannot import.
    """
    names = sorted({reference.partition(":")[0].partition(".")[0] for reference in references})
    if "__main__" in names:
        raise ConfigError(
            "'__main__' is not allowed as a module: what a script or notebook defines is in its own process only; "
            'put it into a module, or set compute.grid to "inline" and make one run at a time'
        )
    return tuple(source for name in names if (source := _imported_sources.get(name)) is not None)


def receive(modules: Sequence[Source]) -> None:
    """Import modules from the sources that another process sent from now on; their folders, where this machine has them, are searched."""
    for finder in [finder for finder in sys.meta_path if isinstance(finder, SourceFinder)]:
        sys.meta_path.remove(finder)
        for source in finder.modules:
            forget(source)
            _imported_sources.pop(source.name, None)
    sys.meta_path.insert(0, SourceFinder(modules))
    search(*(Path(source.folder) for source in modules if Path(source.folder).is_dir()))


@contextmanager
def component_errors(where: str, name: str) -> Iterator[None]:
    """Turn whatever a component raises inside the block into a `ConfigError` with its key, its name and the place in its file."""
    try:
        yield
    except ConfigError:
        raise
    except Exception as error:
        raise ConfigError(f"{where}: {name!r} is not allowed: it ended with {_described(error)}") from error


def entry_points(kind: str, installed: Any = None) -> dict[str, importlib.metadata.EntryPoint]:
    """What installed packages register in the group `fedsam.KIND`, by name.

    Args:
        installed: What `importlib.metadata.entry_points()` gives, which takes long; default: found now.

    Raises:
        ConfigError: Two packages register the same name.
    """
    found: dict[str, importlib.metadata.EntryPoint] = {}
    for point in (importlib.metadata.entry_points() if installed is None else installed).select(group=f"fedsam.{kind}"):
        if point.name in found and found[point.name].value != point.value:
            raise ConfigError(f"{kind}: {point.name!r} is registered by both {origin(found[point.name])} and {origin(point)}; remove one")
        found[point.name] = point
    return found


def origin(point: importlib.metadata.EntryPoint) -> str:
    """The package that registers an entry point, with its version."""
    return f"{point.dist.name} {point.dist.version}" if point.dist else point.value


def _imported(name: str, refused: str) -> ModuleType:
    """The module, imported. Raises `ConfigError`."""
    top = name.partition(".")[0]
    if name in sys.modules and top in _imported_sources:
        return sys.modules[name]
    if os.getcwd() not in sys.path and "" not in sys.path:
        search(*map(Path, _searched))
    before, writes_none = set(sys.modules), sys.dont_write_bytecode
    # Python tells by size and second whether bytecode is current: of a module that was changed at once, it would run what was before.
    sys.dont_write_bytecode = True
    try:
        module = importlib.import_module(name)
    except Exception as error:  # whatever a module does when it is imported
        if isinstance(error, ModuleNotFoundError) and error.name is not None and f"{name}.".startswith(f"{error.name}."):
            others = (path for path in sys.path if path and Path(path).is_dir() and not is_installed(Path(path)))  # PYTHONPATH and the like
            places = ", ".join(dict.fromkeys([*(_searched or [os.getcwd()]), *others]))
            raise ConfigError(f"{refused}: there is no module {error.name}; searched {places}, and what is installed") from None
        raise ConfigError(f"{refused}: importing {name} ended with {_described(error)}") from error
    finally:
        sys.dont_write_bytecode = writes_none
    _imported_sources.setdefault(top, source_of(top, set(sys.modules) - before))
    return module


def _described(error: Exception) -> str:
    """An error with the place where it came up."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "importlib" not in frame.filename]
    own = [frame for frame in frames if not is_installed(Path(frame.filename).parent)] or frames
    at = f" ({own[-1].filename}, line {own[-1].lineno})" if own and not isinstance(error, SyntaxError) else ""
    return f"{type(error).__name__}: {error}{at}"
