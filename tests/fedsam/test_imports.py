"""Our packages' names belong to our packages, until a Flower app is loaded."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from fedsam.config import ConfigError
from fedsam.imports import PACKAGES, ROOT, prefer_others, prefer_own


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Modules, and how they are found, are as before when a test ends."""
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    before = dict(sys.modules)
    yield
    for name in set(sys.modules) - set(before):
        del sys.modules[name]
    sys.modules.update(before)


@pytest.mark.parametrize("name", PACKAGES)
def test_ours_are_found_first_until_others_are_preferred(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = tmp_path / f"{name}.py"
    theirs.touch()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, name, raising=False)

    def found() -> str | None:
        spec = importlib.util.find_spec(name)
        return spec.origin if spec else None

    prefer_own()
    prefer_own()
    assert found() == str(ROOT / name / "__init__.py")
    prefer_others()
    prefer_others()
    assert found() == str(theirs)


def test_an_app_finds_its_modules_and_ours_keep_those_they_have(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Theirs have the names of our packages and of modules in them; a folder without modules takes no name away."""
    importlib.import_module("experiments")
    importlib.import_module("fedsam.config")
    ours = importlib.import_module("fedsam.grid.base")
    for file in ("fedsam/__init__.py", "fedsam/config.py", "fedsam/grid.py", "src/clients.py"):
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_text("theirs = True\n")
    (tmp_path / "experiments").mkdir()
    monkeypatch.setattr(sys, "path", list(sys.path))
    prefer_others(tmp_path, tmp_path / "src")
    found = {name: hasattr(importlib.import_module(name), "theirs") for name in ("fedsam", "fedsam.config", "fedsam.grid", "clients")}
    assert found == dict.fromkeys(found, True)
    assert sys.modules["fedsam.grid.base"] is ours  # what is pickled by name is found
    assert sys.modules["experiments"].__file__ == str(ROOT / "experiments" / "__init__.py")
    kept = dict(sys.modules)
    prefer_others(tmp_path, tmp_path / "src")
    assert sys.modules == kept


@pytest.mark.parametrize(
    ("file", "place"), [("clients.py", "clients.py"), ("clients/__init__.py", "clients"), ("clients/mine.py", "clients")]
)
def test_a_module_that_has_a_name_of_ours_already_is_named(file: str, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / file
    path.parent.mkdir(exist_ok=True)
    path.touch()
    prefer_others()
    monkeypatch.delitem(sys.modules, "clients", raising=False)
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    importlib.invalidate_caches()
    importlib.import_module("clients")
    with pytest.raises(ConfigError, match=f"^{tmp_path / place}: is not allowed here: fedsam needs the name 'clients'"):
        prefer_own()


def test_a_module_without_a_place_is_nobodys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "clients", ModuleType("clients"))
    prefer_own()
