"""What interrupts Ray's start; real starts and ends are tested through the commands."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import threading
from concurrent.futures import wait
from pathlib import Path
from types import SimpleNamespace

import pytest

from fedsam.config import ConfigError
from fedsam.grid import ray_start, session
from fedsam.grid.ray_start import RayStartError
from fedsam.grid.session import import_ray, private_ray, ray_session
from tests.support.processes import HANG


def test_the_alarm_that_ray_sets_on_a_signal_does_not_cut_the_end_short(monkeypatch: pytest.MonkeyPatch) -> None:
    ray, awaited, off, ended = import_ray(private=True), threading.Event(), threading.Event(), list[str]()

    def start(**_: object) -> None:
        awaited.wait(HANG)
        os.kill(os.getpid(), signal.SIGINT)
        off.wait(HANG)

    def look(*what: object) -> object:
        awaited.set()
        return wait(*what)  # type: ignore[arg-type]

    monkeypatch.setattr(ray, "init", start)
    monkeypatch.setattr(session.futures, "wait", look)
    monkeypatch.setattr(ray, "shutdown", lambda: ended.append("Ray"))
    monkeypatch.setattr(signal, "alarm", lambda seconds: seconds or off.set())
    with pytest.raises(KeyboardInterrupt), session._running_ray("local") as starts:
        starts.is_up(wait=True)
    assert off.is_set()
    assert ended == ["Ray"]


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The temporary folders with which a Ray that never comes up was started; each start leaves a log."""
    ray, folders = import_ray(private=True), list[str]()

    def start(*, _temp_dir: str, **_: object) -> None:
        folders.append(_temp_dir)
        (Path(_temp_dir) / "session_latest" / "logs").mkdir(parents=True)
        raise Exception("The current node timed out during startup.")

    monkeypatch.setattr(ray, "init", start)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    monkeypatch.setattr(session, "ONE_RAY", threading.Lock())  # not that of the tests' real Ray
    return folders


def test_a_ray_that_does_not_come_up_is_tried_again_and_its_logs_are_kept(started: list[str], caplog: pytest.LogCaptureFixture) -> None:
    with (
        pytest.raises(RayStartError, match=r"tried 3 times: The current node timed out during startup\.; its logs are in") as error,
        ray_session(),
    ):
        pass
    place = Path(str(error.value).partition("its logs are in ")[2].partition(";")[0])
    assert place.is_dir()
    assert [Path(folder) for folder in started] == [place.parents[1].with_name(name) for name in ("r", "r1", "r2")]
    assert [record.getMessage() for record in caplog.records] == [
        "Ray did not come up (The current node timed out during startup.); it is started once more"
    ] * 2
    shutil.rmtree(place.parents[2])


def test_wrong_arguments_of_ray_are_not_tried_again(started: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*, _temp_dir: str, **_: object) -> None:
        started.append(_temp_dir)
        raise ValueError("too small an object store")

    monkeypatch.setattr(import_ray(private=True), "init", refuse)
    with pytest.raises(ValueError, match="too small"), ray_session():
        pass
    assert len(started) == 1
    assert not Path(started[0]).parent.exists()


class SlowRay:
    """A Ray that comes up when it may.

    Attributes:
        log: What was done to it, in order.
        folder: Of its files.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        ray, self.may_come_up, self.log, self.begun = import_ray(private=True), threading.Event(), list[object](), threading.Event()
        monkeypatch.setattr(session, "start_private", self._start)
        monkeypatch.setattr(session, "ONE_RAY", threading.Lock())  # not that of the tests' real Ray
        monkeypatch.setattr(ray, "shutdown", lambda: self.log.append("ended"))

    def _start(self, over: threading.Event, *, num_cpus: int, _temp_dir: str, **_: object) -> None:
        self.folder = Path(_temp_dir).parent
        self.log.append(f"starts with {num_cpus} CPUs")
        self.begun.set()
        assert self.may_come_up.wait(HANG)
        self.log.append("up")


@pytest.fixture
def slow_ray(monkeypatch: pytest.MonkeyPatch) -> SlowRay:
    return SlowRay(monkeypatch)


def test_a_private_ray_starts_beside_its_block_and_is_watched_once_it_is_up(slow_ray: SlowRay, monkeypatch: pytest.MonkeyPatch) -> None:
    watched = threading.Event()
    monkeypatch.setattr(session, "watch", lambda *_: watched.set())
    with private_ray(cpus=3, lost=lambda *_: None) as start:
        assert slow_ray.begun.wait(HANG)
        assert not start.is_up()
        slow_ray.log.append("goes on")
        assert not watched.is_set()
        slow_ray.may_come_up.set()
        assert start.is_up(wait=True)
        assert watched.wait(HANG)
        assert start.is_up()
    assert slow_ray.log == ["starts with 3 CPUs", "goes on", "up", "ended"]
    assert not slow_ray.folder.exists()


def test_a_second_private_ray_of_a_process_is_refused_until_the_first_has_ended(slow_ray: SlowRay) -> None:
    slow_ray.may_come_up.set()
    with private_ray(cpus=1) as start:
        start.is_up(wait=True)
        with (
            pytest.raises(ConfigError, match="'ray' is not possible here now: another run of this process has Ray"),
            ray_session(),
        ):
            pass
        assert slow_ray.log == ["starts with 1 CPUs", "up"]
    with private_ray(cpus=2) as start:
        start.is_up(wait=True)
    assert slow_ray.log[3:] == ["starts with 2 CPUs", "up", "ended"]


def test_a_cluster_is_refused_to_a_process_that_has_a_private_ray(slow_ray: SlowRay) -> None:
    slow_ray.may_come_up.set()
    with socket.create_server(("127.0.0.1", 0)) as cluster, private_ray(cpus=1) as start:
        start.is_up(wait=True)
        address = f"127.0.0.1:{cluster.getsockname()[1]}"
        with pytest.raises(ConfigError, match="another run of this process has Ray"), ray_session(address):
            pass
        assert slow_ray.log == ["starts with 1 CPUs", "up"]


def test_the_handling_of_sigterm_that_ray_sets_is_taken_back(slow_ray: SlowRay) -> None:
    def handler(*_: object) -> None:
        pass

    before = signal.signal(signal.SIGTERM, handler)
    try:
        with private_ray(cpus=1) as start:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            assert not start.is_up()
            assert signal.getsignal(signal.SIGTERM) is handler
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            slow_ray.may_come_up.set()
            start.is_up(wait=True)
            assert signal.getsignal(signal.SIGTERM) is handler
            signal.signal(signal.SIGTERM, signal.SIG_DFL)  # by whoever uses Ray
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_private_ray_ends_in_order_where_the_block_ends_before_it_is_up(slow_ray: SlowRay) -> None:
    with pytest.raises(ConfigError, match="no such model"), private_ray(cpus=1):
        threading.Timer(0.2, slow_ray.may_come_up.set).start()
        raise ConfigError("no such model")
    assert slow_ray.log[-2:] == ["up", "ended"]
    assert not slow_ray.folder.exists()


def test_ray_is_ended_although_a_second_interrupt_comes_while_it_starts(slow_ray: SlowRay, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    over = list[threading.Event]()
    monkeypatch.setattr(session, "start_private", lambda event, **_: over.append(event) or event.wait(HANG))
    with pytest.raises(KeyboardInterrupt), private_ray(cpus=1):
        monkeypatch.setattr(session.futures, "wait", interrupted)
        raise KeyboardInterrupt
    assert slow_ray.log == ["ended"]
    assert over[0].is_set()


def test_the_logs_of_a_ray_that_did_not_come_up_are_kept_although_a_run_has_recorded_the_error(started: list[str]) -> None:
    with pytest.raises(RayStartError) as error, private_ray() as start:
        for _ in range(2):
            with pytest.raises(RayStartError, match="tried 3 times"):
                start.is_up(wait=True)
    place = Path(str(error.value).partition("its logs are in ")[2].partition(";")[0])
    assert place.is_dir()
    shutil.rmtree(place.parents[2])
    assert len(started) == 3


def test_ray_is_given_more_time_than_it_takes_itself(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    import_ray(private=True)
    import ray
    from ray._private import services

    now = iter(range(0, 1000, 7))
    dead, alive = SimpleNamespace(state=1), SimpleNamespace(state=0)
    answers: list[dict[str, object]] = [{}] * 4 + [{"node": dead}, {"node": alive}]

    def ask(*_: object) -> str:
        return "its node"

    monkeypatch.setattr(ray._raylet, "GcsClient", lambda address: SimpleNamespace(get_all_node_info=lambda: answers.pop(0)))
    monkeypatch.setattr(services, "get_node", ask)
    monkeypatch.setattr(ray_start, "time", SimpleNamespace(monotonic=lambda: next(now)))
    lives = [True]
    monkeypatch.setattr(ray_start, "_has_raylet", lambda folder: lives[0])
    monkeypatch.setattr(ray_start, "START_POLL_SECONDS", 0.0)
    with ray_start._patient(threading.Event(), "folder"):
        assert services.get_node("address", "node") == "its node"
        answers[:] = [{"node": dead}] * 1000
        with pytest.raises(TimeoutError, match="not up in 126 s"):
            services.get_node("address", "node")
        lives[0] = False
        monkeypatch.setattr(ray_start, "START_SECONDS", 1000.0)
        with pytest.raises(ChildProcessError, match="its raylet has ended"):
            services.get_node("address", "node")
    assert services.get_node is ask
    assert [record.getMessage() for record in caplog.records] == ["Ray is not up after 21 s; at most 99 s more"]
