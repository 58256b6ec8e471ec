"""Every check of the doctor, with made-up facts."""

from __future__ import annotations

from pathlib import Path

import pytest

from experiments import cli, doctor, machine
from experiments.doctor import GIB, Check
from experiments.machine import Gpus


@pytest.mark.parametrize(("version", "verdict"), [((3, 10), "problem"), ((3, 11), "ok"), ((3, 14), "ok"), ((3, 15), "problem")])
def test_python(version: tuple[int, int], verdict: str) -> None:
    assert doctor.python(version).verdict == verdict


def test_packages_that_fit_are_ok_and_others_are_named_with_the_command() -> None:
    needs = ["torch>=2.9", "flwr[simulation]>=1.41,<1.42", "rich>=13", 'pytest>=8; extra == "dev"', 'tomli; python_version < "3"']
    fits = {"torch": "2.15.0+cu132", "flwr": "1.41.3", "rich": "14.0"}
    assert [(c.name, c.verdict) for c in doctor.packages(needs, fits.get)] == [("torch", "ok"), ("flwr", "ok"), ("packages", "ok")]
    (torch, flwr, rich) = doctor.packages(needs, {"torch": "2.9", "flwr": "1.42.0"}.get)
    assert (torch.verdict, flwr.verdict, rich.verdict) == ("ok", "problem", "problem")
    assert flwr.fix in ("pip install 'flwr>=1.41,<1.42'", "pip install 'flwr<1.42,>=1.41'")
    assert rich.found == "rich is not installed"
    (nothing,) = doctor.packages([], fits.get)
    assert nothing.verdict == "problem"


GPU = {"driver": "550.1", "supports": (12, 4), "names": ["H200"], "built": "12.4", "usable": 1}


@pytest.mark.parametrize(
    ("changes", "verdict", "said"),
    [
        ({}, "ok", "H200; driver 550.1; torch for CUDA 12.4"),
        ({"names": [], "driver": None}, "ok", "none: clients run on the CPU"),
        ({"built": None, "usable": 0}, "problem", "a build for CPUs"),
        ({"built": "13.2", "usable": 0}, "problem", "torch for CUDA 13.2"),
        ({"usable": 0, "error": "out of memory"}, "problem", "out of memory"),
    ],
)
def test_gpus(changes: dict[str, object], verdict: str, said: str) -> None:
    check = doctor.gpus(Gpus(**(GPU | changes)))  # type: ignore[arg-type]
    assert check.verdict == verdict
    assert said in check.found
    assert bool(check.fix) == (verdict == "problem")


def test_an_old_driver_is_told_what_it_supports() -> None:
    assert "supports CUDA up to 12.4" in doctor.gpus(Gpus(**(GPU | {"built": "13.2", "usable": 0}))).fix  # type: ignore[arg-type]


@pytest.mark.parametrize(("limit", "verdict"), [(256, "problem"), (1024, "warning"), (65536, "ok")])
def test_open_files(limit: int, verdict: str) -> None:
    assert doctor.open_files(limit).verdict == verdict


@pytest.mark.parametrize(("free", "verdict"), [(GIB // 2, "problem"), (2 * GIB, "warning"), (50 * GIB, "ok")])
def test_disk(free: int, verdict: str) -> None:
    assert doctor.disk("disk", Path("/runs"), free).verdict == verdict


def test_temporary_folder() -> None:
    assert doctor.temporary_folder("/tmp").verdict == "ok"
    assert doctor.temporary_folder("/var/folders/of/somebody/with/a/long/name").verdict == "warning"


@pytest.mark.parametrize(
    ("free", "verdict", "fix"),
    [(GIB, "problem", "compute.actors=1"), (4 * GIB, "warning", "compute.actors=3"), (64 * GIB, "ok", ""), (None, "ok", "")],
)
def test_memory(free: int | None, verdict: str, fix: str) -> None:
    check = doctor.memory(64 * GIB, free, 8)
    assert check.verdict == verdict
    assert fix in check.fix


@pytest.mark.parametrize(("shm", "verdict"), [(None, "warning"), (64 * 2**20, "warning"), (40 * GIB, "ok")])
def test_shared_memory(shm: int | None, verdict: str) -> None:
    assert doctor.shared_memory(shm, 100 * GIB).verdict == verdict


def test_shared_memory_says_how_much_is_wanted() -> None:
    assert "--shm-size=31g" in doctor.shared_memory(64 * 2**20, 100 * GIB).fix


def test_ports() -> None:
    assert doctor.ports("10.0.0.1", reachable=True).verdict == "ok"
    assert "firewall" in doctor.ports("10.0.0.1", reachable=False).fix


def test_data(tmp_path: Path) -> None:
    files = {"folder/a": "0cc175b9c0f1b6a831c399e269772661"}
    assert doctor.data(tmp_path, files, lambda: True) == Check("CIFAR-10", f"not in {tmp_path}; will be downloaded there")
    assert doctor.data(tmp_path, files, lambda: False).verdict == "problem"
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a").write_text("a")
    assert doctor.data(tmp_path, files, lambda: False) == Check("CIFAR-10", f"1 official files in {tmp_path}")
    (tmp_path / "folder" / "a").write_text("b")
    assert "is corrupt or truncated" in doctor.data(tmp_path, files, lambda: True).found


def test_real_cifar_is_found(cifar_root: Path) -> None:
    assert doctor.data(cifar_root, doctor._cifar10(), lambda: False).verdict == "ok"


def test_ray() -> None:
    assert doctor.ray(lambda: "10.0.0.1:6379").found.startswith("yes, at 10.0.0.1:6379")

    def broken() -> str:
        raise TimeoutError("the raylet did not come up\nmore")

    check = doctor.ray(broken)
    assert (check.verdict, check.found) == ("problem", "no: TimeoutError: the raylet did not come up")


def test_placement() -> None:
    assert doctor.placement(4, "x86_64", 8, 0).found.startswith("4 actors, each with 1 CPU and 1 torch thread (8 CPUs of x86_64)")
    assert "0.25 gives 8 actors" in doctor.placement(4, "x86_64", 8, 2).found


def test_facts_of_this_machine_are_plausible(tmp_path: Path) -> None:
    total, free = machine.memory()
    assert total and free and 0 < free <= total
    assert machine.free_disk(tmp_path / "not" / "there") > 0
    assert machine.open_files() > 0
    assert machine.cpus()[1] >= 1
    assert machine.reaches_itself()
    assert not machine.reachable("127.0.0.1", 1)


@pytest.mark.parametrize(("verdict", "code"), [("ok", 0), ("warning", 0), ("problem", 1)])
def test_the_command_shows_every_check_and_its_exit_code_is_the_worst(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], verdict: str, code: int
) -> None:
    checks = [Check("first", "[fine]"), Check("second", "so", verdict, "mend it")]  # type: ignore[arg-type]
    monkeypatch.setattr(doctor, "examine", lambda *_: iter(checks))
    with pytest.raises(SystemExit) as stopped:
        cli.main(["doctor"])
    out = capsys.readouterr().out
    assert stopped.value.code == code
    assert all(word in out for word in ("first", "[fine]", "second", "mend it", verdict))
