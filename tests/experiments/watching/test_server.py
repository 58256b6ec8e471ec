from __future__ import annotations

import errno
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from experiments.cli import main
from experiments.watching.serving import WatchServer
from fedsam.results.store import Results
from fedsam.wording import ConfigError
from tests.support.processes import HANG
from tests.support.recorded import SAM, add, row


@pytest.fixture
def results(runs_dir: Path) -> Iterator[Results]:
    with Results.open(runs_dir) as results:
        yield results


@contextmanager
def served(runs_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, httpx.Client]]:
    """The address of a server of the folder, and a client that asks it."""
    monkeypatch.setattr("experiments.watching.serving.cores", lambda: 2)
    monkeypatch.setattr("experiments.watching.server.POLL_SECONDS", 0.05)
    server, ready = WatchServer(runs_dir), threading.Event()
    thread = threading.Thread(target=server.run, args=(ready.set,))
    thread.start()
    try:
        assert ready.wait(HANG)
        with httpx.Client(trust_env=False, timeout=HANG) as client:
            yield server.url, client
    finally:
        server.stop()
        thread.join(HANG)
    assert not thread.is_alive()


def test_the_page_is_whole_and_its_address_has_a_token(runs_dir: Path, results: Results, monkeypatch: pytest.MonkeyPatch) -> None:
    run = add(results, [0.1])
    with served(runs_dir, monkeypatch) as (url, client):
        page = client.get(url)
        assert page.status_code == 200 and page.text.count("<script>") == 1
        assert "http://" not in page.text.replace("http://www.w3.org/2000/svg", "") and "https://" not in page.text
        policy = page.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; script-src 'sha256-") and "unsafe" not in policy
        assert page.headers["referrer-policy"] == "no-referrer" and page.headers["cache-control"] == "no-store"
        token = url.rstrip("/").rpartition("/")[2]
        assert len(token) >= 32
        for path in ("/", "/events", f"/{token[:-1]}/", f"/{token}x/events", "/é/", f"/report/command-{run}", f"//{token}/"):
            denied = client.get(str(httpx.URL(url).join("/")) + path[1:])
            assert denied.status_code == 403 and "lacks the token" in denied.text and run not in denied.text
        assert client.post(url).status_code == 405 and client.get(f"{url}nothing").status_code == 404


def test_a_window_is_told_of_a_new_round(runs_dir: Path, results: Results, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("experiments.watching.views.REFRESH_SECONDS", 0.0)
    run = add(results, [0.1], status="running")
    with served(runs_dir, monkeypatch) as (url, client), client.stream("GET", f"{url}events?view=latest&page=x") as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        messages = (json.loads(line.removeprefix("data: ")) for line in stream.iter_lines() if line.startswith("data: "))
        before = next(messages)
        results.append_round(row(run, 2, {"test_accuracy": 0.5}, 1))
        after = next(messages)
        results.finish_run(run, "finished")
        end = next(messages)
    lines = [view["chart"]["panels"][0]["lines"][0]["points"] for view in (before, after, end)]
    assert [len(points) for points in lines] == [1, 2, 2] and before["chart"]["measure"] == "train_loss"
    assert [view["utilisation"]["at_work"] for view in (before, after, end)] == [1, 1, 0]


@pytest.mark.usefixtures("no_figures")
def test_a_report_is_made_of_the_runs_that_have_ended(runs_dir: Path, results: Results, monkeypatch: pytest.MonkeyPatch) -> None:
    ended = [add(results, [0.1, 0.2], seed=seed) for seed in (0, 1)]
    running = add(results, [0.1], status="running", seed=2)
    other = add(results, [0.1, 0.2, 0.3], rounds=9)
    with served(runs_dir, monkeypatch) as (url, client):
        view = next(json.loads(line.removeprefix("data: ")) for line in client_lines(client, f"{url}events") if line.startswith("data: "))
        listed = client.get(f"{url}report/{view['key']}")
        assert "cifar10, 8 rounds: 2 runs" in listed.text and "cifar10, 9 rounds: 1 run" in listed.text
        page = opened(client, f"{url}report/{view['key']}/0")
        assert all(run in page.text for run in ended) and running not in page.text and other not in page.text
        assert "script-src" not in page.headers["content-security-policy"]
        none = client.get(f"{url}report/{view['key']}/7")
        assert none.status_code == 404 and "None of these runs has finished" in none.text
    assert not (runs_dir / "reports").exists()


def test_a_report_that_is_there_is_opened_unless_a_run_has_changed_since(
    runs_dir: Path, results: Results, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = [add(results, [0.1], seed=seed, client__optimizer=SAM) for seed in (0, 1)]
    monkeypatch.setattr("experiments.reporting.report.write_report", lambda *arguments: Path("there/is/no/such/page"))
    path = runs_dir / "reports" / runs[0] / "report.html"
    path.parent.mkdir(parents=True)
    path.write_text(f"fedsam report, 2 runs: {', '.join(runs)}")
    key = "/report/alike-"
    with served(runs_dir, monkeypatch) as (url, client):
        line = next(line for line in client_lines(client, f"{url}events?view=alike") if line.startswith("data: "))
        key = json.loads(line.removeprefix("data: "))["tables"][0]["rows"][0][0]["href"].removeprefix("#set=")
        assert opened(client, f"{url}report/{key}").text == path.read_text()
    for changed in ("time", "number"):
        path.write_text(f"fedsam report, 3 runs: {', '.join(runs)}" if changed == "number" else path.read_text())
        os.utime(path, (0, 0) if changed == "time" else None)
        with served(runs_dir, monkeypatch) as (url, client):
            failed = opened(client, f"{url}report/{key}")
            assert failed.status_code == 500 and "FileNotFoundError" in failed.text


def client_lines(client: httpx.Client, url: str) -> Iterator[str]:
    with client.stream("GET", url) as stream:
        yield from stream.iter_lines()


def opened(client: httpx.Client, url: str) -> httpx.Response:
    """The answer once the report is made."""
    end = time.monotonic() + HANG
    while (answer := client.get(url)).status_code == 202:
        assert 'http-equiv="refresh"' in answer.text and time.monotonic() < end
    return answer


def test_a_port_that_is_taken_is_named(runs_dir: Path) -> None:
    runs_dir.mkdir()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=rf"port: {port} is not allowed: another program listens there.*--port 0 takes a free one"):
            WatchServer(runs_dir, port=port)


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (errno.EACCES, "port: 80 is not allowed: the system keeps it for its own programs"),
        (errno.EADDRNOTAVAIL, "host: '127.0.0.1' is not allowed: must be an address of this machine"),
    ],
)
def test_an_address_that_cannot_be_had_is_named(runs_dir: Path, monkeypatch: pytest.MonkeyPatch, number: int, message: str) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise OSError(number, os.strerror(number))

    runs_dir.mkdir()
    monkeypatch.setattr(socket, "create_server", refuse)
    with pytest.raises(ConfigError, match=message):
        WatchServer(runs_dir, port=80)


def test_a_folder_that_is_missing_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main.main(["watch", str(tmp_path / "nowhere")])
    assert stopped.value.code == 2
    said = " ".join(capsys.readouterr().err.split())
    assert f"RUNS: '{tmp_path / 'nowhere'}' is not allowed: there is no such folder; `fedsam run` makes one" in said


def test_the_command_prints_the_address_warns_of_other_machines_and_opens_a_browser(
    runs_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    runs_dir.mkdir()
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    monkeypatch.setattr("experiments.watching.serving.cores", lambda: 2)
    monkeypatch.setattr("uvicorn.Server.run", lambda self, sockets: None)
    for options, warned in (["--open"], False), (["--no-browser", "--host", "0.0.0.0"], True):
        with pytest.raises(SystemExit) as stopped:
            main.main(["watch", str(runs_dir), "--port", "0", *options])
        out, err = capsys.readouterr()
        first, url = out.splitlines()
        assert stopped.value.code == 0 and first == f"watching {runs_dir}; Ctrl-C ends this" and url.startswith("http://")
        assert ("goes over the network" in err) == warned
        assert opened == ([url] if not warned else opened[:1])
