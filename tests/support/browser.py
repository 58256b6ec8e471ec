"""Chromium without a window, driven by its DevTools protocol: for pages that change while somebody looks at them."""

from __future__ import annotations

import base64
import itertools
import json
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from websockets.sync.client import ClientConnection, connect

from tests.support.processes import HANG

POLL = 0.1  # seconds


class Page:
    """A page of a browser.

    Attributes:
        messages: Errors of its scripts, and what its console shows.
    """

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self._numbers = itertools.count(1)
        self.messages: list[str] = []
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """The result of a method of the protocol."""
        number = next(self._numbers)
        self._socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:
            message = json.loads(self._socket.recv(timeout=HANG))
            if message.get("method") in ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded"):
                self.messages.append(json.dumps(message["params"]))
            if message.get("id") == number:
                assert "error" not in message, message
                result: dict[str, Any] = message["result"]
                return result

    def evaluate(self, expression: str) -> Any:
        """The value of an expression in the page; True for an element."""
        plain = f"(value => value instanceof Node ? true : value)({expression})"
        return self.call("Runtime.evaluate", expression=plain, returnByValue=True)["result"].get("value")

    def open(self, url: str) -> None:
        """Go to an address."""
        self.call("Page.navigate", url=url)

    def wait(self, expression: str) -> Any:
        """The value of an expression once it is true."""
        end = time.monotonic() + HANG
        while not (value := self.evaluate(expression)):
            assert time.monotonic() < end, f"{expression} stays {value!r}: {self.evaluate('document.body && document.body.innerText')}"
            threading.Event().wait(POLL)
        return value

    def resize(self, width: int, height: int = 900, *, dark: bool = False) -> None:
        """Give the page a size in pixels, which may be that of a telephone, and a preference for dark colours."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}])

    def picture(self, path: Path) -> None:
        """Write what the page shows, its whole length, as PNG."""
        taken = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(taken["data"]))


@contextmanager
def browser(folder: Path) -> Iterator[Page]:
    """A page of a Chromium that reaches this machine alone.

    Args:
        folder: An empty one for its profile.
    """
    program = shutil.which("chromium") or shutil.which("google-chrome")
    assert program, "this test needs chromium"
    options = ["--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder}", "--remote-debugging-port=0"]
    options += ["--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1", "about:blank"]
    process = subprocess.Popen([program, *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        announced, end = folder / "DevToolsActivePort", time.monotonic() + HANG
        while not (announced.exists() and announced.read_text().count("\n")):
            assert process.poll() is None and time.monotonic() < end, "chromium does not start"
            threading.Event().wait(POLL)
        port = announced.read_text().split()[0]
        targets = httpx.get(f"http://127.0.0.1:{port}/json/list", trust_env=False).json()
        address = next(one["webSocketDebuggerUrl"] for one in targets if one["type"] == "page")
        with connect(address, max_size=None, proxy=None) as socket:
            yield Page(socket)
    finally:
        process.terminate()
        process.wait(HANG)
