"""The page in a browser, before, while and after a run is made by another process."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.browser import browser
from tests.support.processes import HANG

CONFIG = """
rounds = 12
model = "lenet5"
server.participation = 4
compute.grid = "inline"
measure.every = 1
data = { dataset = "digits", clients = 8 }
client.steps = 10
sweep.seeds = [0, 1]
sweep."client.optimizer.name" = ["sgd", "sam"]
"""
CURVE = "(document.querySelector('g[data-line] .line') || {getAttribute: () => ''}).getAttribute('d')"
STATUS = "document.getElementById('state').innerText"


@pytest.mark.slow
def test_page_in_a_browser(tmp_path: Path) -> None:
    runs_dir, config = tmp_path / "runs", tmp_path / "small.toml"
    runs_dir.mkdir()
    config.write_text(CONFIG)
    fedsam = [sys.executable, "-m", "experiments.cli"]
    watching = subprocess.Popen([*fedsam, "watch", runs_dir, "--port", "0"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert watching.stdout
    try:
        watching.stdout.readline()
        url = watching.stdout.readline().strip()
        with browser(tmp_path / "profile") as page:
            page.resize(1200)
            page.open(url)
            page.wait("document.getElementById('problem').innerText.includes('is not there yet')")
            with subprocess.Popen([*fedsam, "run", config, "--runs-dir", runs_dir, "--quiet"], stdout=subprocess.DEVNULL) as running:
                page.wait(f"{STATUS}.includes('1 running')")
                first = page.wait(CURVE)
                page.wait(f"{CURVE} !== {first!r}")  # it moves, without the page being loaded again
                page.wait("document.querySelector('.whole div').style.width.length > 2 && document.querySelector('#table-at-work')")
                page.wait(f"{STATUS} === '4 finished'")
                assert running.wait(HANG) == 0
            page.wait("!document.querySelector('#table-at-work') && document.querySelectorAll('g[data-line] .band').length === 2")
            for width in (1200, 390):
                page.resize(width, dark=width == 390)
                page.wait(f"innerWidth === {width}")
                assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
            assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(21, 24, 28)"
            address = page.evaluate("document.getElementById('report').href")
            fetched = page.evaluate(
                "performance.getEntriesByType('resource').map(entry => entry.name).filter(name => !name.startsWith('data:'))"
            )
            assert all(name.startswith(f"{url}events") for name in fetched)
            page.open(address)
            page.wait("document.querySelector('#table-leaderboard') && document.images.length > 0")
            assert page.messages == []
        watching.send_signal(signal.SIGINT)
        assert watching.wait(HANG) == 130
        assert watching.communicate()[1].strip() == "fedsam: the page is closed; runs that are at work go on"
    finally:
        watching.kill()
        watching.wait()
