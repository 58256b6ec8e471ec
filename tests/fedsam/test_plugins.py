"""Components from outside: where modules are found, what is said of wrong ones, and how other processes come by their source."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from clients.optimizers import LocalOptimizer, build
from experiments.cli import console_tables
from experiments.settings.catalogue import REGISTRIES
from fedsam import plugins, registry
from fedsam.config import Component, ConfigError

OPTIMIZER = """
from dataclasses import dataclass
from clients.optimizers import LocalOptimizer
from fedsam.config import NonNegative
from fedsam.documentation import hyperparameter

@dataclass(frozen=True, kw_only=True)
class Mine(LocalOptimizer):
    \"\"\"Descend with twice the gradient.\"\"\"

    rho: NonNegative = hyperparameter(0.05, "Nothing.")

    def gradient(self, w, state, step):
        g, losses = step.grad(w)
        return 2 * g, losses, state
"""


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """An empty working directory; afterwards no search folder and no finder of a test is left."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    yield
    plugins.receive(())
    plugins.search()


def write(folder: Path, name: str, text: str) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}.py"
    path.write_text(text)
    return path


def said(name: str, key: str = "client.optimizer") -> str:
    with pytest.raises(ConfigError) as error:
        registry.build(REGISTRIES[key], Component(name=name), key)
    return str(error.value)


@pytest.mark.parametrize("place", ["beside", "here"])
def test_modules_are_found_beside_the_configuration_and_in_the_working_directory(tmp_path: Path, place: str) -> None:
    write(tmp_path / place, "plugged", OPTIMIZER)
    plugins.search(tmp_path / "beside")
    made = build(Component.model_validate({"name": "plugged:Mine", "rho": 0.2, "lr": 0.3}))
    assert isinstance(made, LocalOptimizer)
    assert (made.rho, made.lr) == (0.2, 0.3)  # type: ignore[attr-defined]


def test_what_is_installed_wins_over_a_search_folder(tmp_path: Path) -> None:
    write(tmp_path / "here", "json", "Mine = None")
    write(tmp_path / "here", "clients", "Mine = None")
    plugins.search()
    assert "json/__init__.py has no Mine" in said("json:Mine")
    assert "clients/__init__.py has no Mine" in said("clients:Mine")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "client.optimizer: 'plugged:Mine' is not allowed: {file} has no Mine"),
        ("Mind = 1", "{file} has no Mine, did you mean 'Mind'?"),
        (
            "Mine = 3",
            "client.optimizer: 'plugged:Mine' is not allowed: it is a int, not a class derived from clients.optimizers.LocalOptimizer",
        ),
        ("class Mine: pass", "it is the class Mine, not a class derived from clients.optimizers.LocalOptimizer"),
        ("import no_such_thing", "importing plugged ended with ModuleNotFoundError: No module named 'no_such_thing' ({file}, line 1)"),
        ("\n1 / 0", "importing plugged ended with ZeroDivisionError: division by zero ({file}, line 2)"),
        ("def", "importing plugged ended with SyntaxError: invalid syntax (plugged.py, line 1)"),
        ("from clients.optimizers import LocalOptimizer\nclass Mine(LocalOptimizer): pass", "Mine does not define gradient"),
        (OPTIMIZER.replace("@dataclass(frozen=True, kw_only=True)", ""), "Mine must be a dataclass, its hyperparameters its fields"),
        (OPTIMIZER.replace("rho: NonNegative", "rho: 'Unknown'"), "the types of its hyperparameters cannot be told"),
    ],
)
def test_wrong_components_are_told_what_is_expected(tmp_path: Path, text: str, message: str) -> None:
    file = write(tmp_path / "here", "plugged", text)
    plugins.search()
    assert message.format(file=file) in said("plugged:Mine")


def test_missing_modules_are_told_where_they_were_searched(tmp_path: Path) -> None:
    (tmp_path / "pythonpath").mkdir()
    sys.path.append(str(tmp_path / "pythonpath"))
    try:
        plugins.search(tmp_path / "beside")
        message = said("not_there:Mine")
    finally:
        sys.path.remove(str(tmp_path / "pythonpath"))
    assert "there is no module not_there; searched " in message
    assert str(tmp_path / "beside") in message and str(tmp_path / "here") in message
    assert str(tmp_path / "pythonpath") in message and "lib-dynload" not in message and "site-packages" not in message
    assert "is written module:attribute" in said("not there:Mine")
    assert "'smap' is not known, did you mean 'sampa'?" in said("smap") and said("smap").endswith("module:attribute")


@pytest.mark.parametrize(
    ("key", "text", "message"),
    [
        (
            "data.partition",
            "def Mine(labels): return []",
            "it takes 1 arguments, not a function of (labels, num_clients, rng, *, hyperparameters)",
        ),
        ("client.schedule", "Mine = 1.0", "it is a float, not a function of (round, rounds, *, hyperparameters)"),
        ("server.strategy", "class Mine: pass", "it is the class Mine, not a class derived from strategies.ServerRule"),
        ("client.correction", "def Mine(): pass", "it is a function, not a class derived from clients.corrections.Correction"),
        ("server.sampling", "def Mine(round): pass", "not a function of (round, clients, cohort, rng, *, hyperparameters)"),
        ("simulate.speed", "def Mine(): pass", "it takes 0 arguments, not a function of (rng, *, hyperparameters)"),
    ],
)
def test_each_kind_says_what_it_expects(tmp_path: Path, key: str, text: str, message: str) -> None:
    write(tmp_path / "here", "plugged", text)
    plugins.search()
    assert said("plugged:Mine", key).startswith(f"{key}: 'plugged:Mine' is not allowed: ")
    assert message in said("plugged:Mine", key)


def test_settings_of_a_function_follow_the_callers_arguments(tmp_path: Path) -> None:
    write(tmp_path / "here", "plugged", "def net(image, classes, width, depth: int = 2): return image, classes, width, depth")
    plugins.search()
    models = REGISTRIES["model"]
    assert registry.resolve(models, Component.model_validate({"name": "plugged:net", "width": 3}), "model") == {"width": 3, "depth": 2}
    assert registry.build(models, Component.model_validate({"name": "plugged:net", "width": 3}), "model")(1, 2) == (1, 2, 3, 2)
    for settings, message in (({}, "model.width: must be given"), ({"width": 1, "depth": "x"}, "model.depth: 'x' is not allowed")):
        with pytest.raises(ConfigError, match=message):
            registry.build(models, Component.model_validate({"name": "plugged:net", **settings}), "model")


def test_a_changed_module_is_imported_again_and_has_another_hash(tmp_path: Path) -> None:
    write(tmp_path / "here", "beside_it", "FACTOR = 2")
    path = write(tmp_path / "here", "plugged", "import beside_it\nclass A: x = beside_it.FACTOR")
    plugins.search()
    assert plugins.load("plugged:A.x", "k") == 2
    (first,) = plugins.sources(["plugged:A"])
    assert set(first.files) == {"plugged.py", "beside_it.py"}
    write(tmp_path / "here", "beside_it", "FACTOR = 3")
    plugins.refresh()
    assert plugins.load("plugged:A.x", "k") == 3
    (second,) = plugins.sources(["plugged:A"])
    assert first.digest != second.digest
    write(tmp_path / "elsewhere", "plugged", "class A: x = 4")
    path.unlink()
    plugins.search(tmp_path / "elsewhere")
    assert plugins.load("plugged:A.x", "k") == 4
    assert plugins.sources(["json:loads", "torch.nn:Linear"]) == ()


def test_another_machine_imports_what_this_one_did(tmp_path: Path) -> None:
    package = tmp_path / "there" / "plugged"
    write(tmp_path / "there", "beside_it", "FACTOR = 2")
    package.mkdir()
    write(package, "__init__", "")
    write(package, "inner", "import beside_it\nfrom plugged import other\nclass A: x = beside_it.FACTOR * other.Y")
    write(package, "other", "Y = 5")
    plugins.search(tmp_path / "there")
    assert plugins.load("plugged.inner:A.x", "k") == 10
    sent = plugins.sources(["plugged.inner:A"])
    (tmp_path / "there").rename(tmp_path / "gone")
    plugins.search()
    for name in ("plugged", "plugged.inner", "plugged.other", "beside_it"):
        sys.modules.pop(name, None)
    plugins.receive(sent)
    assert plugins.load("plugged.inner:A.x", "k") == 10
    assert Path(sys.modules["plugged.inner"].__file__ or "").parts[-2:] == ("plugged", "inner.py")
    plugins.receive(())
    with pytest.raises(ConfigError, match="there is no module plugged"):
        plugins.load("plugged.inner:A.x", "k")


def test_what_a_notebook_defines_is_in_its_process_only() -> None:
    with pytest.raises(ConfigError, match=r"'__main__' is not allowed as a module: .*compute\.grid to \"inline\""):
        plugins.sources(["__main__:Mine"])


def distribution(folder: Path, name: str, group: str, line: str) -> None:
    """An installed package, as far as its metadata tells."""
    info = folder / f"{name}-1.5.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.5\n")
    (info / "entry_points.txt").write_text(f"[{group}]\n{line}\n")


def test_packages_register_components_by_entry_points(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "packages"
    distribution(place, "theirs", "fedsam.optimizers", "doubled = plugged:Mine\nsam = plugged:Mine\nbroken = plugged:Nothing")
    write(place, "plugged", OPTIMIZER)
    monkeypatch.syspath_prepend(place)
    plugins.refresh()  # other tests have modules of that name
    assert build(Component(name="doubled")).__class__.__name__ == "Mine"
    assert build(Component(name="sam")).__class__.__name__ == "SAM"  # ours keep their names
    assert "allowed: " in said("double") and "did you mean 'doubled'" in said("double")
    listed = console_tables.shown("optimizers")[0]
    cells = [str(cell) for column in listed.columns for cell in column.cells]
    assert "doubled" in cells and "broken" in cells
    text = " ".join(cells)
    assert "From theirs 1.5." in text
    assert "Out of reach: the name is fedsam's. From theirs 1.5." in text
    assert "Cannot be used: optimizers: 'plugged:Nothing' is not allowed" in text
    distribution(place, "others", "fedsam.optimizers", "doubled = elsewhere:Mine")
    with pytest.raises(ConfigError, match=r"'doubled' is registered by both \w+ 1\.5 and \w+ 1\.5"):
        build(Component(name="doubled"))
