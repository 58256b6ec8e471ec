"""Components from outside: `module:attribute` references, the folders in which their modules are searched, and entry points.

A module is imported as Python does it, and besides from the search folders: that of the configuration file, and the working directory.
They stand behind everything that is installed. What was imported from there is kept with its source: other processes import that source,
and a run's provenance has its hash.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.abc
import importlib.machinery
import importlib.metadata
import importlib.util
import os
import re
import sys
import sysconfig
import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from types import ModuleType
from typing import Any

from fedsam.config import ConfigError, nearest
from fedsam.imports import PACKAGES

REFERENCE = re.compile(r"[A-Za-z_]\w*(\.\w+)*:[A-Za-z_]\w*(\.\w+)*")


# A process has one `sys.path` and one `sys.modules`; these say what of them came from here.
_searched: list[str] = []  # the search folders
_appended: list[str] = []  # those of them that `sys.path` did not have
_sources: dict[str, Source | None] = {}  # by top-level module; None: installed, or not of files


@dataclass(frozen=True)
class Source:
    """A top-level module that is not installed, as it was when it was imported.

    Attributes:
        name: Of the module.
        folder: Where it was found.
        files: Its Python files and those of the modules beside it that it imported: path below `folder` -> content.
    """

    name: str
    folder: str
    files: Mapping[str, bytes]

    @property
    def digest(self) -> str:
        """A hash of the files and their names: `sha256:` and twelve hexadecimal digits."""
        whole = hashlib.sha256()
        for path, content in sorted(self.files.items()):
            whole.update(f"{path}\0{len(content)}\0".encode() + content)
        return f"sha256:{whole.hexdigest()[:12]}"

    def changed(self) -> bool:
        """Whether the files on this machine are others now, or another module of that name would be found."""
        found = _place(self.name)
        if found is None or str(found[0]) != self.folder:
            return True
        return any(_content(Path(self.folder) / path) != content for path, content in self.files.items())


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
    for source in [source for source in _sources.values() if source is not None and source.changed()]:
        del _sources[source.name]
        _forget(source)


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
            'put it into a module, or set compute.grid to "inline"'
        )
    return tuple(source for name in names if (source := _sources.get(name)) is not None)


def digests(modules: Iterable[Source]) -> dict[str, str]:
    """The hash of each module's files, by `module NAME`."""
    return {f"module {source.name}": source.digest for source in modules}


def receive(modules: Sequence[Source]) -> None:
    """Import modules from the sources that another process sent from now on; their folders, where this machine has them, are searched."""
    for finder in [finder for finder in sys.meta_path if isinstance(finder, _Received)]:
        sys.meta_path.remove(finder)
        for source in finder.modules:
            _forget(source)
            _sources.pop(source.name, None)
    sys.meta_path.insert(0, _Received(modules))
    search(*(Path(source.folder) for source in modules if Path(source.folder).is_dir()))


@contextmanager
def blamed(where: str, name: str) -> Iterator[None]:
    """Turn whatever a component raises inside the block into a `ConfigError` with its key, its name and the place in its file."""
    try:
        yield
    except ConfigError:
        raise
    except Exception as error:
        raise ConfigError(f"{where}: {name!r} is not allowed: it ended with {_told(error)}") from error


def entry_points(kind: str) -> dict[str, importlib.metadata.EntryPoint]:
    """What installed packages register in the group `fedsam.KIND`, by name.

    Raises:
        ConfigError: Two packages register the same name.
    """
    found: dict[str, importlib.metadata.EntryPoint] = {}
    for point in importlib.metadata.entry_points(group=f"fedsam.{kind}"):
        if point.name in found and found[point.name].value != point.value:
            raise ConfigError(f"{kind}: {point.name!r} is registered by both {origin(found[point.name])} and {origin(point)}; remove one")
        found[point.name] = point
    return found


def origin(point: importlib.metadata.EntryPoint) -> str:
    """The package that registers an entry point, with its version."""
    return f"{point.dist.name} {point.dist.version}" if point.dist else point.value


class _Received(importlib.abc.MetaPathFinder):
    """Finds modules in sources that another process sent, under the names that their files have there."""

    def __init__(self, modules: Sequence[Source]) -> None:
        self.modules = modules
        self._paths = {_module_name(path): str(Path(source.folder) / path) for source in modules for path in source.files}
        contents = {str(Path(source.folder) / path): content for source in modules for path, content in source.files.items()}
        self._loader = _ReceivedLoader(self._paths, contents)

    def find_spec(self, fullname: str, path: object = None, target: object = None) -> importlib.machinery.ModuleSpec | None:
        """As `MetaPathFinder.find_spec`."""
        file = self._paths.get(fullname)
        if file is None:
            return None
        places = [str(Path(file).parent)] if Path(file).name == "__init__.py" else None
        return importlib.util.spec_from_file_location(fullname, file, loader=self._loader, submodule_search_locations=places)


class _ReceivedLoader(importlib.abc.SourceLoader):
    """Loads what `_Received` finds.

    Args:
        paths: File of each module.
        contents: Content of each file.
    """

    def __init__(self, paths: Mapping[str, str], contents: Mapping[str, bytes]) -> None:
        self._paths, self._contents = paths, contents

    def get_filename(self, fullname: str) -> str:
        """As `ExecutionLoader.get_filename`."""
        return self._paths[fullname]

    def get_data(self, path: str | bytes) -> bytes:
        """As `ResourceLoader.get_data`. Raises `OSError` for what was not sent, compiled files among it."""
        if str(path) not in self._contents:
            raise FileNotFoundError(str(path))
        return self._contents[str(path)]


def _imported(name: str, refused: str) -> ModuleType:
    """The module, imported. Raises `ConfigError`."""
    top = name.partition(".")[0]
    if name in sys.modules and top in _sources:
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
            places = ", ".join(_searched or [os.getcwd()])
            raise ConfigError(f"{refused}: there is no module {error.name}; searched {places}, and what is installed") from None
        raise ConfigError(f"{refused}: importing {name} ended with {_told(error)}") from error
    finally:
        sys.dont_write_bytecode = writes_none
    _sources.setdefault(top, _source(top, set(sys.modules) - before))
    return module


def _told(error: Exception) -> str:
    """An error with the place where it came up."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "importlib" not in frame.filename]
    own = [frame for frame in frames if not _installed(Path(frame.filename).parent)] or frames
    at = f" ({own[-1].filename}, line {own[-1].lineno})" if own and not isinstance(error, SyntaxError) else ""
    return f"{type(error).__name__}: {error}{at}"


def _source(top: str, new: set[str]) -> Source | None:
    """The source of a top-level module, and of the `new` modules that it imported from the same folder; None where it is installed."""
    place = _place(top)
    if top in PACKAGES or place is None or _installed(place[0]):
        return None
    folder, files = place
    for name in sorted({name.partition(".")[0] for name in new} - {top, *PACKAGES}):
        other = _place(name)
        if other is not None and other[0] == folder:
            files = [*files, *other[1]]
    contents = {path.relative_to(folder).as_posix(): _content(path) for path in files}
    return Source(top, str(folder), {path: content for path, content in contents.items() if content is not None})


def _place(top: str) -> tuple[Path, list[Path]] | None:
    """The folder that a top-level module is found in, and its Python files; None where there is none of files."""
    spec = importlib.machinery.PathFinder.find_spec(top)
    if spec is None:
        return None
    if spec.submodule_search_locations is not None:
        package = Path(next(iter(spec.submodule_search_locations)))
        return package.parent, [path for path in sorted(package.rglob("*.py")) if "__pycache__" not in path.parts]
    return (Path(spec.origin).parent, [Path(spec.origin)]) if spec.origin and spec.has_location else None


def _installed(folder: Path) -> bool:
    """Whether a folder is one of Python's own or of its packages."""
    known = {Path(path) for path in sysconfig.get_paths().values()}
    return folder in known or any(part in ("site-packages", "dist-packages") for part in folder.parts)


def _content(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None


def _forget(source: Source) -> None:
    """Remove a source's modules from those that are imported."""
    tops = {_module_name(path).partition(".")[0] for path in source.files}
    for name in [name for name in sys.modules if name.partition(".")[0] in tops]:
        del sys.modules[name]


def _module_name(path: str) -> str:
    """The module that a Python file is: `a/b.py` is `a.b`, `a/__init__.py` is `a`."""
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
