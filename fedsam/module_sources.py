"""Sources of modules that are not installed: what a process imported from them, and importing that in another process."""

from __future__ import annotations

import hashlib
import importlib.abc
import importlib.machinery
import importlib.util
import sys
import sysconfig
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fedsam.imports import PACKAGES


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
        found = _location(self.name)
        if found is None or str(found[0]) != self.folder:
            return True
        return any(_content(Path(self.folder) / path) != content for path, content in self.files.items())


def digests(modules: Iterable[Source]) -> dict[str, str]:
    """The hash of each module's files, by `module NAME`."""
    return {f"module {source.name}": source.digest for source in modules}


def source_of(top: str, new: set[str]) -> Source | None:
    """The source of a top-level module, and of the `new` modules that it imported from the same folder; None where it is installed."""
    location = _location(top)
    if top in PACKAGES or location is None or is_installed(location[0]):
        return None
    folder, files = location
    for name in sorted({name.partition(".")[0] for name in new} - {top, *PACKAGES}):
        other = _location(name)
        if other is not None and other[0] == folder:
            files = [*files, *other[1]]
    contents = {path.relative_to(folder).as_posix(): _content(path) for path in files}
    return Source(top, str(folder), {path: content for path, content in contents.items() if content is not None})


def forget(source: Source) -> None:
    """Remove a source's modules from those that are imported."""
    tops = {_module_name(path).partition(".")[0] for path in source.files}
    for name in [name for name in sys.modules if name.partition(".")[0] in tops]:
        del sys.modules[name]


class SourceFinder(importlib.abc.MetaPathFinder):
    """Finds modules in sources that another process sent, under the names that their files have there."""

    def __init__(self, modules: Sequence[Source]) -> None:
        self.modules = modules
        self._paths = {_module_name(path): str(Path(source.folder) / path) for source in modules for path in source.files}
        contents = {str(Path(source.folder) / path): content for source in modules for path, content in source.files.items()}
        self._loader = _SourceLoader(self._paths, contents)

    def find_spec(self, fullname: str, path: object = None, target: object = None) -> importlib.machinery.ModuleSpec | None:
        """As `MetaPathFinder.find_spec`."""
        file = self._paths.get(fullname)
        if file is None:
            return None
        folders = [str(Path(file).parent)] if Path(file).name == "__init__.py" else None
        return importlib.util.spec_from_file_location(fullname, file, loader=self._loader, submodule_search_locations=folders)


class _SourceLoader(importlib.abc.SourceLoader):
    """Loads what `SourceFinder` finds.

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


def is_installed(folder: Path) -> bool:
    """Whether a folder is one of Python's own or of its packages."""
    known = {Path(path) for path in sysconfig.get_paths().values()}
    return folder in known or any(part in ("site-packages", "dist-packages", "lib-dynload") for part in folder.parts)


def _location(top: str) -> tuple[Path, list[Path]] | None:
    """The folder that a top-level module is found in, and its Python files; None where there is none of files."""
    spec = importlib.machinery.PathFinder.find_spec(top)
    if spec is None:
        return None
    if spec.submodule_search_locations is not None:
        package = Path(next(iter(spec.submodule_search_locations)))
        return package.parent, [path for path in sorted(package.rglob("*.py")) if "__pycache__" not in path.parts]
    return (Path(spec.origin).parent, [Path(spec.origin)]) if spec.origin and spec.has_location else None


def _content(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None


def _module_name(path: str) -> str:
    """The module that a Python file is: `a/b.py` is `a.b`, `a/__init__.py` is `a`."""
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
