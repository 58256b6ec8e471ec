"""Every check of the doctor, with made-up facts."""

from __future__ import annotations

from pathlib import Path

import pytest

from experiments.cli import main
from experiments.diagnostics import checks, machine
from experiments.diagnostics.checks import GIB, CheckResult
from experiments.diagnostics.machine import Gpus
from fedsam.config import Compute
from fedsam.results.integrity import problems
from fedsam.results.store import Results


@pytest.mark.parametrize(("version", "verdict"), [((3, 10), "problem"), ((3, 11), "ok"), ((3, 14), "ok"), ((3, 15), "problem")])
def test_python(version: tuple[int, int], verdict: str) -> None:
    assert checks.python(version).verdict == verdict


def test_packages_that_fit_are_ok_and_others_are_named_with_the_command() -> None:
    needs = ["torch>=2.9", "flwr[simulation]>=1.41,<1.42", "rich>=13", 'pytest>=8; extra == "dev"', 'tomli; python_version < "3"']
    fits = {"torch": "2.15.0+cu132", "flwr": "1.41.3", "rich": "14.0"}
    assert [(c.name, c.verdict) for c in checks.packages(needs, fits.get)] == [("torch", "ok"), ("flwr", "ok"), ("packages", "ok")]
    (torch, flwr, rich) = checks.packages(needs, {"torch": "2.9", "flwr": "1.42.0"}.get)
    assert (torch.verdict, flwr.verdict, rich.verdict) == ("ok", "problem", "problem")
    assert flwr.fix in ("pip install 'flwr>=1.41,<1.42'", "pip install 'flwr<1.42,>=1.41'")
    assert rich.found == "rich is not installed"
    (nothing,) = checks.packages([], fits.get)
    assert nothing.verdict == "problem"


GPU = {"driver": "550.1", "driver_cuda": (12, 4), "names": ["H200"], "torch_cuda": "12.4", "usable": 1}


@pytest.mark.parametrize(
    ("changes", "verdict", "said"),
    [
        ({}, "ok", "H200; driver 550.1; torch for CUDA 12.4"),
        ({"names": [], "driver": None}, "ok", "none: clients run on the CPU"),
        ({"torch_cuda": None, "usable": 0}, "problem", "a build for CPUs"),
        ({"torch_cuda": "13.2", "usable": 0}, "problem", "torch for CUDA 13.2"),
        ({"usable": 0, "error": "out of memory"}, "problem", "out of memory"),
    ],
)
def test_gpus(changes: dict[str, object], verdict: str, said: str) -> None:
    check = checks.gpus(Gpus(**(GPU | changes)))  # type: ignore[arg-type]
    assert check.verdict == verdict
    assert said in check.found
    assert bool(check.fix) == (verdict == "problem")


def test_an_old_driver_is_told_what_it_supports() -> None:
    assert "supports CUDA up to 12.4" in checks.gpus(Gpus(**(GPU | {"torch_cuda": "13.2", "usable": 0}))).fix  # type: ignore[arg-type]


def test_a_damaged_results_file_is_a_problem_with_what_to_do(tmp_path: Path) -> None:
    assert checks.results([]) == CheckResult("results", "whole")
    Results.open(tmp_path).close()
    file = tmp_path / "fedsam.db"
    assert checks.results(problems(file)).verdict == "ok"
    file.write_bytes(file.read_bytes()[:-5000])
    found = checks.results(problems(file))
    assert found.verdict == "problem" and "malformed" in found.found and ".recover" in found.fix


@pytest.mark.parametrize(("limit", "verdict"), [(256, "problem"), (1024, "warning"), (65536, "ok")])
def test_open_files(limit: int, verdict: str) -> None:
    assert checks.open_files(limit).verdict == verdict


@pytest.mark.parametrize(("free", "verdict"), [(GIB // 2, "problem"), (2 * GIB, "warning"), (50 * GIB, "ok")])
def test_disk(free: int, verdict: str) -> None:
    check = checks.disk("disk", Path("/runs"), free, "--runs-dir", None)
    assert (check.verdict, "--runs-dir" in check.fix) == (verdict, verdict != "ok")


def test_a_folder_that_cannot_be_used(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    assert machine.obstacle(tmp_path / "new" / "folder") is None
    assert machine.obstacle(file / "below") == f"{file} is not a folder"
    assert machine.obstacle(file) == f"{file} is not a folder"
    check = checks.disk("disk", file, 50 * GIB, "--runs-dir", machine.obstacle(file))
    assert (check.verdict, check.fix) == ("problem", "name a folder that you may write to with --runs-dir")


def test_a_folder_of_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.access", lambda *_: False)
    assert machine.obstacle(tmp_path / "new") == f"{tmp_path} must not be written to"


@pytest.mark.parametrize("version", [0, 1])
def test_a_containers_memory_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: int) -> None:
    files = list(machine.CGROUPS.values())[version]
    for (name, key), value in zip(files, (2 * GIB, GIB, GIB // 2), strict=True):
        (tmp_path / name).write_text(f"{key}_other 7\n{key} {value}\n" if key else f"{value}\n")
    monkeypatch.setattr(machine, "CGROUPS", {tmp_path / "absent": files, tmp_path: files})
    total, free = machine.memory()
    assert total == 2 * GIB
    assert free == 1.5 * GIB  # this machine has more


def test_temporary_folder() -> None:
    assert checks.temporary_folder("/tmp").verdict == "ok"
    assert checks.temporary_folder("/var/folders/of/somebody/with/a/long/name").verdict == "warning"


@pytest.mark.parametrize(
    ("free", "verdict", "fix"),
    [(GIB, "problem", "compute.actors=1"), (4 * GIB, "warning", "compute.actors=3"), (64 * GIB, "ok", "")],
)
def test_memory(free: int, verdict: str, fix: str) -> None:
    check = checks.memory(64 * GIB, free, 8)
    assert check.verdict == verdict
    assert fix in check.fix


@pytest.mark.parametrize(("shm", "verdict"), [(None, "warning"), (64 * 2**20, "warning"), (40 * GIB, "ok")])
def test_shared_memory(shm: int | None, verdict: str) -> None:
    assert checks.shared_memory(shm, 100 * GIB).verdict == verdict


def test_shared_memory_says_how_much_is_wanted() -> None:
    assert "--shm-size=31g" in checks.shared_memory(64 * 2**20, 100 * GIB).fix


def test_ports() -> None:
    assert checks.ports("10.0.0.1", reachable=True).verdict == "ok"
    assert "firewall" in checks.ports("10.0.0.1", reachable=False).fix


def test_data(tmp_path: Path) -> None:
    files = {"folder/a": "0cc175b9c0f1b6a831c399e269772661"}
    assert checks.data(tmp_path, files, lambda: True) == CheckResult("CIFAR-10", f"not in {tmp_path}; will be downloaded there")
    assert checks.data(tmp_path, files, lambda: False).verdict == "problem"
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a").write_text("a")
    assert checks.data(tmp_path, files, lambda: False) == CheckResult("CIFAR-10", f"1 official files in {tmp_path}")
    (tmp_path / "folder" / "a").write_text("b")
    assert "is corrupt or truncated" in checks.data(tmp_path, files, lambda: True).found


def test_the_official_files_are_found(root: Path) -> None:
    found = checks.data(root, checks._cifar10(), lambda: False)
    assert (found.verdict, found.found) == ("ok", f"7 official files in {root}")


@pytest.mark.slow
def test_real_cifar_is_found(cifar_root: Path) -> None:
    assert checks.data(cifar_root, checks._cifar10(), lambda: False).verdict == "ok"


def test_ray() -> None:
    check, resources = checks.ray(lambda: ("10.0.0.1:6379", {"CPU": 1.0}))
    assert check.found.startswith("answers at 10.0.0.1:6379")
    assert resources == {"CPU": 1.0}

    def broken() -> tuple[str, dict[str, float]]:
        raise TimeoutError("the raylet did not come up\nmore")

    check, resources = checks.ray(broken)
    assert (check.verdict, check.found) == ("problem", "does not start: TimeoutError: the raylet did not come up")
    assert resources is None
    check, _ = checks.ray(lambda: checks._start_ray(Compute(ray_address="nonsense")))
    assert check.found == "compute.ray_address: 'nonsense' is not allowed: it is `auto` or HOST:PORT, 10.0.0.1:6379 say"


def test_placement() -> None:
    assert checks.placement(4, "x86_64", 8, 0).found.startswith("4 actors, each with 1 CPU and 1 torch thread (8 CPUs of x86_64)")
    assert "0.25 gives 8 actors" in checks.placement(4, "x86_64", 8, 2).found


def test_placement_on_a_cluster() -> None:
    resources = {"CPU": 24.0, "GPU": 2.0, "node:10.0.0.1": 1.0, "node:10.0.0.2": 1.0, "node:__internal_head__": 1.0}
    found = checks.placement_on_cluster(24, resources).found
    assert found.startswith("24 actors on 2 machines with 24 CPUs and 2 GPUs in all")
    assert checks.placement_on_cluster(0, {}).verdict == "warning"


def test_facts_of_this_machine_are_plausible(tmp_path: Path) -> None:
    total, free = machine.memory()
    assert 0 < free <= total
    assert machine.free_disk(tmp_path / "not" / "there") > 0
    assert machine.open_files() > 0
    assert machine.cpus()[1] >= 1
    assert machine.reaches_itself()
    assert not machine.reachable("127.0.0.1", 1)


@pytest.mark.parametrize(("verdict", "code"), [("ok", 0), ("warning", 0), ("problem", 1)])
def test_the_command_shows_every_check_and_its_exit_code_is_the_worst(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], verdict: str, code: int
) -> None:
    given = [CheckResult("first", "[fine]"), CheckResult("second", "so", verdict, "mend it")]  # type: ignore[arg-type]
    monkeypatch.setattr(checks, "examine", lambda *_: iter(given))
    with pytest.raises(SystemExit) as stopped:
        main.main(["doctor"])
    out = capsys.readouterr().out
    assert stopped.value.code == code
    assert all(word in out for word in ("first", "[fine]", "second", "mend it", verdict))
