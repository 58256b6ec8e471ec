"""The wheel, installed where no checkout is: its commands, what `import fedsam` gives, and folders of a user with our packages' names."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import venv
from collections.abc import Mapping
from pathlib import Path
from zipfile import ZipFile

import psutil
import pytest

from fedsam.imports import PACKAGES
from fedsam.results.store import Results

ROOT = Path(__file__).resolve().parents[1]
SMALL = [
    "rounds=1",
    "model=lenet5",
    "data.dataset=digits",
    "data.examples=200",
    "client.epochs=1",
    "measure.union=false",
    "measure.flatness.measures=[]",
]
OVERRIDES = [word for setting in SMALL for word in ("-o", setting)]
INLINE = ["-o", "compute.grid=inline"]
ONE_ACTOR = ["-o", "compute.actors=1"]
FOREIGN = 'raise RuntimeError("a module of the user")\n'
THEIRS = {"clients/__init__.py": FOREIGN, "strategies.py": FOREIGN, "experiments/__init__.py": FOREIGN}
# What Python imports first in every process: whatever is not this machine refuses to be found or connected to.
SITE = """
import errno, socket
OWN = {own!r}
def refuse(address):
    if isinstance(address, tuple) and address[0] not in OWN:
        raise OSError(errno.ENETUNREACH, f"{{address[0]}} is out of reach in this test")
def guarded(connect):
    return lambda self, address: refuse(address) or connect(self, address)
socket.socket.connect = guarded(socket.socket.connect)
socket.socket.connect_ex = guarded(socket.socket.connect_ex)
search = socket.getaddrinfo
def getaddrinfo(host, *rest, **options):
    if host not in OWN and host is not None:
        raise socket.gaierror(socket.EAI_NONAME, f"{{host}} is out of reach in this test")
    return search(host, *rest, **options)
socket.getaddrinfo = getaddrinfo
"""


def own_addresses() -> set[str]:
    """What this machine is called."""
    return {"", "localhost", socket.gethostname(), "0.0.0.0", "::"} | {
        address.address for each in psutil.net_if_addrs().values() for address in each
    }


SETTINGS = """{
    "rounds": 1, "model": "lenet5", "measure": {"union": False}, "compute": {"grid": "inline"},
    "data": {"dataset": "digits", "examples": 100, "clients": 2}, "server": {"participation": 2},
}"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built as `uv build` builds it: from the source distribution. Nothing is downloaded."""
    folder = tmp_path_factory.mktemp("build")
    build = [sys.executable, "-m", "hatchling", "build", "-d", str(folder), "-t"]
    subprocess.run([*build, "sdist"], cwd=ROOT, check=True, capture_output=True)
    (source,) = folder.glob("*.tar.gz")
    with tarfile.open(source) as archive:
        archive.extractall(folder, filter="data")
    subprocess.run([*build, "wheel"], cwd=source.with_name(source.name.removesuffix(".tar.gz")), check=True, capture_output=True)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def scripts(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of programs of a fresh environment with the wheel, and with the dependencies of this one, but not with this checkout."""
    environment = tmp_path_factory.mktemp("environment")
    venv.create(environment, symlinks=True)
    scripts = environment / "bin"
    command = [sys.executable, "-m", "uv", "pip", "install", "--offline", "--no-deps", "--python", str(scripts / "python"), str(wheel)]
    subprocess.run(command, check=True, capture_output=True)
    (packages,) = environment.glob("lib/*/site-packages")
    # Python reads no .pth file of a folder that it has from a .pth file, so that of the editable install is left out.
    (packages / "dependencies.pth").write_text("\n".join({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}))
    return scripts


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """An empty folder to work in; home is another one."""
    folder = tmp_path / "here"
    folder.mkdir()
    return folder


@pytest.fixture
def no_network(tmp_path: Path) -> str:
    """A search path with which a process reaches nothing but this machine."""
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(SITE.format(own=own_addresses()))
    return str(site)


def call(folder: Path, program: Path, *arguments: object, **variables: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a program of a stranger in `folder`: with an empty home, and no variables of ours."""
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "TMPDIR", "OMP_NUM_THREADS") if name in os.environ}
    environment = {**kept, "HOME": str(folder.parent / "home"), "COLUMNS": "200", **variables}
    done = subprocess.run([program, *map(str, arguments)], cwd=folder, env=environment, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr


def write(folder: Path, files: Mapping[str, str]) -> None:
    """Files by their paths in `folder`."""
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def test_the_wheel_has_all_files_of_the_packages(wheel: Path) -> None:
    names = set(ZipFile(wheel).namelist())
    tracked = subprocess.run(["git", "ls-files", *PACKAGES], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    assert set(tracked) <= names
    assert {f"{package}/py.typed" for package in PACKAGES} <= names
    assert {name.partition("/")[0] for name in names if ".dist-info/" not in name} == set(PACKAGES)


def test_it_is_the_wheel_that_runs(scripts: Path, here: Path) -> None:
    code = f"from importlib.util import find_spec; print(*(find_spec(name).origin for name in {PACKAGES}))"
    status, out, err = call(here, scripts / "python", "-c", code)
    assert status == 0, err
    assert all(Path(file).is_relative_to(scripts.parent) for file in out.split())


def assert_compared(out: str, err: str, runs: int) -> None:
    """SGD against SAM, 10 against 30 clients: a table, a report, and what was used instead of CIFAR."""
    assert "NOT cifar10: digits was used instead" in out
    rows = [line.split()[:2] for line in out.splitlines() if line.startswith((" sgd ", " sam "))]
    assert sorted(rows) == [[name, clients] for name in ("sam", "sgd") for clients in ("10", "30")]
    note = "dataset cifar10 cannot be had: this run uses digits instead, all 1442 training examples of it (data.examples: 5000)"
    assert err.count(note) == runs
    assert err.count("downloading") == err.count("WARNING") == 1


def test_quickstart_from_an_empty_folder_without_data_and_network(scripts: Path, here: Path, no_network: str) -> None:
    short = (
        "-o",
        "rounds=1",
        "-o",
        "sweep.seeds=[0]",
        "-o",
        "client.epochs=1",
        "-o",
        "server.participation=2",
        "-o",
        "measure.union=false",
        *INLINE,
    )
    status, out, err = call(here, scripts / "fedsam", "run", "quickstart", *short, PYTHONPATH=no_network)
    assert status == 0, err
    assert_compared(out, err, runs=4)
    assert "out of reach in this test" in err
    assert "digits, because cifar10 could not be had" in (here / out.splitlines()[-1].removeprefix("report: ")).read_text()
    with Results.open(here / "runs", create=False) as results:
        assert [run.status for run in results.runs()] == ["finished"] * 4
        assert {run.versions["fedsam"] for run in results.runs()} == {project()["version"]}


@pytest.mark.slow
@pytest.mark.ray
def test_quickstart_as_it_is_without_data_and_network(scripts: Path, here: Path, no_network: str) -> None:
    status, out, err = call(here, scripts / "fedsam", "run", "quickstart", PYTHONPATH=no_network)
    assert status == 0, err
    assert_compared(out, err, runs=4)
    with Results.open(here / "runs", create=False) as results:
        finals = [results.rounds(run.id)[-1].measures for run in results.runs()]
    assert all(measures["test_accuracy"] > 0.7 and measures["union_accuracy"] > 0.7 for measures in finals)


def test_compare_from_an_empty_folder(scripts: Path, here: Path) -> None:
    fixed = ["-o", "data.clients=10", "-o", "client.optimizer=sgd", "-o", "sweep.seeds=[0]"]
    status, out, err = call(here, scripts / "fedsam", "compare", "compare", *OVERRIDES, *INLINE, *fixed, "--quiet")
    assert status == 0, err
    assert (here / out.splitlines()[-1].removeprefix("report: ")).is_file()


def test_configs_can_be_listed_and_copied(scripts: Path, here: Path) -> None:
    status, out, err = call(here, scripts / "fedsam", "list", "configs")
    assert status == 0, err
    assert all(name in out for name in ("compare", "methods", "optimizers", "quickstart"))
    status, out, err = call(here, scripts / "fedsam", "run", "quickstart", "--print-config")
    assert status == 0, err
    (here / "mine.toml").write_text(out)
    assert call(here, scripts / "fedsam", "run", "mine.toml", "--print-config")[:2] == (0, out)


def test_python_dash_m_fedsam_is_the_command(scripts: Path, here: Path) -> None:
    assert call(here, scripts / "python", "-m", "fedsam", "--version") == (0, f"fedsam {project()['version']}\n", "")
    assert call(here, scripts / "fedsam", "--version")[:2] == (0, f"fedsam {project()['version']}\n")
    ours, module = (call(here, *program, "run", "quikstart") for program in ((scripts / "fedsam",), (scripts / "python", "-m", "fedsam")))
    assert ours == module
    assert ours[0] == 2 and "did you mean 'quickstart'?" in ours[2]


FACE = f"""
import torch, fedsam

settings = {SETTINGS}
result = fedsam.run(settings)
done = fedsam.compare(settings | {{"sweep": {{"seeds": [0, 1]}}}})
assert [outcome.status for outcome in done.outcomes] == ["finished", "finished"]
assert done.run_ids[0] == result.run_id
x = torch.rand(5, 1, 32, 32)
model = fedsam.load_model(result.run_id)
assert not model.training and torch.equal(model(x), result.model.eval()(x))
with fedsam.Results.open() as results:
    assert [run.id for run in results.runs()] == done.run_ids
print(fedsam.__version__, done.report("page"))
"""


def test_the_public_face_from_a_script_beside_which_our_names_are_taken(scripts: Path, here: Path) -> None:
    write(here, THEIRS | {"script.py": FACE})
    status, out, err = call(here, scripts / "python", "script.py")
    assert (status, out) == (0, f"{project()['version']} page/report.html\n"), err


def test_ours_win_over_modules_in_the_working_directory(scripts: Path, here: Path) -> None:
    write(here, {"clients/__init__.py": FOREIGN, "experiments.py": FOREIGN, "strategies/mine.py": FOREIGN})
    command = "-m", "fedsam", "list", "corrections", "--details"  # whose catalogue imports all four
    status, out, err = call(here, scripts / "python", *command)
    assert status == 0, err
    assert "control_variate" in out


@pytest.mark.ray
def test_ours_win_on_the_search_path_and_in_actors(scripts: Path, here: Path) -> None:
    names = {"fedsam/__init__.py": FOREIGN, "clients.py": FOREIGN, "strategies/__init__.py": FOREIGN, "experiments/__init__.py": FOREIGN}
    write(here, names)
    write(here.parent, {"path/clients/__init__.py": FOREIGN, "path/strategies.py": FOREIGN, "path/experiments.py": FOREIGN})
    fixed = ["-o", "data.clients=4", "-o", "client.optimizer=sam", *ONE_ACTOR]
    found = {"PYTHONPATH": str(here.parent / "path")}
    status, _, err = call(here, scripts / "fedsam", "run", "quickstart", *OVERRIDES, *fixed, **found)
    assert status == 0, err


SCRIPT = f"""
import fedsam

if __name__ == "__main__":
    fedsam.run({SETTINGS} | {{"compute": {{"actors": 1}}, "model": "mine:factory"}})
"""
MODEL = """
from torch import nn

def factory(image, classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(32 * 32, classes))
"""


@pytest.mark.slow
@pytest.mark.ray
def test_ours_win_in_the_actors_of_a_script_and_its_other_modules_are_found(scripts: Path, here: Path) -> None:
    write(here, THEIRS | {"mine.py": MODEL, "script.py": SCRIPT})
    status, _, err = call(here, scripts / "python", "script.py")
    assert status == 0, err


@pytest.mark.parametrize("name", ["clients", "strategies", "experiments"])
@pytest.mark.parametrize("package", [True, False])
def test_a_module_that_was_imported_first_is_named(scripts: Path, here: Path, name: str, package: bool) -> None:
    path = here / (f"{name}/__init__.py" if package else f"{name}.py")
    write(here, {str(path.relative_to(here)): "mine = 1\n", "script.py": f"import {name}\nassert {name}.mine\n{SCRIPT}"})
    status, _, err = call(here, scripts / "python", "script.py")
    assert status == 1
    assert f"ConfigError: {path.parent if package else path}: is not allowed here: fedsam needs the name '{name}'" in err.splitlines()[-1]
    assert not (here / "runs").exists()


def test_the_command_names_a_module_that_was_imported_first(scripts: Path, here: Path) -> None:
    write(here, {"clients.py": "", "sitecustomize.py": "import clients\n"})
    status, out, err = call(here, scripts / "fedsam", "run", "quickstart", PYTHONPATH=str(here))
    assert (status, out) == (2, "")
    assert err.startswith(f"fedsam: {here / 'clients.py'}: is not allowed here") and err.count("\n") == 1


APP = {
    "pyproject.toml": """
        [project]
        name = "foreign"
        version = "1"
        [tool.flwr.app]
        publisher = "nobody"
        [tool.flwr.app.components]
        serverapp = "strategies:app"
        clientapp = "clients.client_app:app"
    """,
    "clients/__init__.py": "",
    "clients/client_app.py": """
from flwr.app import Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()

@app.query()
def query(message, context):
    return Message(RecordDict({"metrics": MetricRecord({"node": context.node_id})}), reply_to=message)
""",
    "strategies.py": """
from flwr.app import Message, RecordDict
from flwr.serverapp import ServerApp

app = ServerApp()

@app.main()
def main(grid, context):
    messages = [Message(RecordDict(), dst_node_id=node, message_type="query") for node in grid.get_node_ids()]
    print(sorted(reply.content["metrics"]["node"] for reply in grid.send_and_receive(messages)))
""",
}


@pytest.mark.parametrize("grid", ["inline", pytest.param("ray", marks=[pytest.mark.slow, pytest.mark.ray])])
def test_a_flower_app_may_have_such_names(scripts: Path, here: Path, grid: str) -> None:
    write(here, {f"app/{name}": text for name, text in APP.items()})
    status, out, err = call(here, scripts / "fedsam", "flower", "app", "-n", "2", "--grid", grid, "--actors", "1")
    assert (status, out.splitlines()[-1:]) == (0, ["[1, 2]"]), err


def project() -> dict[str, str]:
    """The table `project` of pyproject.toml."""
    table: dict[str, str] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return table
