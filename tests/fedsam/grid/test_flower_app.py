"""Reading a Flower app directory: what it says, and what is wrong with one that cannot run."""

import importlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp
from flwr.supercore.constant import DEFAULT_SIMULATION_CONFIG

from fedsam.config import ConfigError
from fedsam.grid.flower_app import DEFAULT_SUPERNODES, FlowerApp
from fedsam.imports import PACKAGES

APPS = Path(__file__).resolve().parents[2] / "apps"


@pytest.fixture(autouse=True)
def own_modules(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What an app adds to how modules are found is gone after a test."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    before = dict(sys.modules)
    yield
    for name in set(sys.modules) - set(before):
        if name.partition(".")[0] in (*PACKAGES, "some"):
            del sys.modules[name]
    sys.modules.update(before)


def made(folder: Path, components: str = 'serverapp = "some:server"\nclientapp = "some:client"', rest: str = "", code: str = "") -> Path:
    head = '[project]\nname = "some"\nversion = "1.0.0"\n[tool.flwr.app]\npublisher = "me"\n[tool.flwr.app.components]\n'
    (folder / "pyproject.toml").write_text(f"{head}{components}\n{rest}")
    (folder / "some.py").write_text(code or "server = 1\nclient = 2\n")
    return folder


def test_an_app_is_read_and_loaded() -> None:
    app = FlowerApp.read(APPS / "features", ["suffix='?' deep.number=4", "output='there'"])
    assert (app.server, app.client, app.supernodes) == ("features:server", "features:client", None)
    assert app.run_config == {"output": "there", "suffix": "?", "deep.number": 4}
    assert isinstance(app.load_server(), ServerApp)
    assert isinstance(app.load_client(), ClientApp)
    assert sys.path[0] == str(APPS / "features")


def test_overrides_may_be_a_file(tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text("suffix = '?'\ndeep.number = 5\n")
    assert FlowerApp.read(APPS / "features", [str(tmp_path / "run.toml")]).run_config == {"output": "", "suffix": "?", "deep.number": 5}


def test_the_number_of_nodes_is_the_default_federations() -> None:
    assert FlowerApp.read(APPS / "quickstart").supernodes == 4
    assert FlowerApp.read(APPS / "legacy").supernodes == 7


def test_two_federations_without_a_default_say_nothing(tmp_path: Path) -> None:
    rest = "[tool.flwr.federations]\na.options.num-supernodes = 2\nb.options.num-supernodes = 3\n"
    assert FlowerApp.read(made(tmp_path, rest=rest)).supernodes is None
    assert FlowerApp.read(made(tmp_path, rest=f"{rest}default = 'b'\n")).supernodes == 3


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["sufix='?'"], "run-config.sufix: unknown key, did you mean 'suffix'?; allowed: deep.number, output, suffix"),
        (["suffix=?"], "invalid format"),
        (["suffix"], "it is 'key=value key2=value2' or a file that ends in .toml"),
        (["none.toml"], "none.toml"),
        (["a.toml", "suffix='?'"], "TOML files cannot be passed alongside"),
    ],
)
def test_wrong_overrides_are_named(overrides: list[str], said: str) -> None:
    with pytest.raises(ConfigError) as error:
        FlowerApp.read(APPS / "features", overrides)
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("components", "said"),
    [
        ('serverapp = "other:server"\nclientapp = "some:client"', "components.serverapp: 'other:server' is not allowed: Unable to load"),
        ('serverapp = "some:server"\nclientapp = "some:nothing"', "components.clientapp: 'some:nothing' is not allowed: Unable to find"),
        ('serverapp = "some:server"', 'Property "clientapp" missing'),
        ('agentapp = "some:server"', "[tool.flwr.app.components] has no serverapp"),
        ("x = ", "not a Flower app"),
    ],
)
def test_what_is_no_app_is_told_before_anything_starts(tmp_path: Path, components: str, said: str) -> None:
    with pytest.raises(ConfigError) as error:
        FlowerApp.read(made(tmp_path, components))
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("server = 1", "'pack.mod:server' is not allowed: ModuleNotFoundError: No module named 'pack'; searched first: {folder}"),
        ("server = (", "'pack.mod:server' is not allowed: SyntaxError"),
        (
            "import nowhere_at_all\nserver = 1",
            "No module named 'nowhere_at_all'; what it imports must be installed here, or lie in {folder}",
        ),
        ("server = 1 / 0", "ended with ZeroDivisionError: division by zero ({folder}/pack/mod.py, line 1)"),
    ],
)
def test_a_module_that_cannot_be_imported_is_told(tmp_path: Path, code: str, said: str) -> None:
    components = 'serverapp = "pack.mod:server"\nclientapp = "some:client"'
    if "No module named 'pack'" not in said:
        (tmp_path / "pack").mkdir()
        (tmp_path / "pack" / "mod.py").write_text(code)
    with pytest.raises(ConfigError) as error:
        FlowerApp.read(made(tmp_path, components)).load_server()
    assert said.format(folder=tmp_path) in str(error.value)


def test_an_app_in_src_need_not_be_installed(tmp_path: Path) -> None:
    app = made(tmp_path, code="from flwr.serverapp import ServerApp\nserver, client = ServerApp(), 2\nserver = server\nclient = 3\n")
    (tmp_path / "src").mkdir()
    (tmp_path / "some.py").rename(tmp_path / "src" / "some.py")
    assert isinstance(FlowerApp.read(app).load_server(), ServerApp)


def test_a_folder_without_an_app_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"not a Flower app: Cannot find pyproject\.toml"):
        FlowerApp.read(tmp_path)


def test_what_is_not_an_app_is_told(tmp_path: Path) -> None:
    app = FlowerApp.read(made(tmp_path))
    with pytest.raises(ConfigError, match=r"components.serverapp: 'some:server' is not allowed: it is a int"):
        app.load_server()


@pytest.mark.parametrize(
    "name",
    [
        "flwr.clientapp.client_app:LoadClientAppError",
        "flwr.common.config:flatten_dict",
        "flwr.common.config:get_project_config",
        "flwr.common.config:parse_config_args",
        "flwr.serverapp.server_app:LoadServerAppError",
        "flwr.supercore.object_ref:load_app",
        "flwr.supercore.object_ref:validate",
    ],
)
def test_flowers_private_helpers_are_where_flower_app_looks_for_them(name: str) -> None:
    module, _, attribute = name.partition(":")
    assert hasattr(importlib.import_module(module), attribute), f"flwr has moved {name}: change fedsam/grid/flower_app.py"


def test_the_default_number_of_nodes_is_flowers() -> None:
    assert DEFAULT_SIMULATION_CONFIG.num_supernodes == DEFAULT_SUPERNODES


@pytest.mark.parametrize(("given", "expected"), [(None, "0"), ("1", "1")])
def test_telemetry_of_flower_is_off_unless_turned_on(monkeypatch: pytest.MonkeyPatch, given: str | None, expected: str) -> None:
    monkeypatch.delenv("FLWR_TELEMETRY_ENABLED", raising=False)
    if given:
        monkeypatch.setenv("FLWR_TELEMETRY_ENABLED", given)
    code = "import fedsam.grid.flower_app, flwr.supercore.telemetry as t; print(t.FLWR_TELEMETRY_ENABLED)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == expected
