"""Downloads of official files by torchvision, with time limits."""

from __future__ import annotations

import contextlib
import io
import socket
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from http.client import HTTPException
from pathlib import Path
from urllib.request import Request, urlopen

ANSWER_SECONDS = 8.0  # until a server answers, the look-up of its address included
SILENCE_SECONDS = 20.0  # without a byte, after which a download fails


def download(root: Path, name: str, missing: Sequence[str], servers: Sequence[str], fetch: Callable[[Path], object]) -> None:
    """Download into a temporary folder and move only missing files, so that no file is overwritten or incomplete.

    Args:
        root: Folder of the files.
        name: The dataset, for the message on stderr.
        missing: Paths below `root`.
        servers: URLs of one file, on each server that has the files.
        fetch: Downloads the files to the same paths below a given folder.

    Raises:
        OSError: No server answers, the download stalls, or the files cannot be written. Other exceptions of `fetch` are passed on.
    """
    root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".download-", dir=root) as folder:
        print(f"{name}: downloading to {root}", file=sys.stderr)
        _await_any(servers)
        with _quiet(), _timeout(SILENCE_SECONDS):
            fetch(Path(folder))
        for path in missing:
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (Path(folder) / path).replace(root / path)


def _await_any(servers: Sequence[str]) -> None:
    """Return when one of the servers answers. Raises the `OSError` or `HTTPException` of the last one if none does."""
    for server in servers[:-1]:
        with contextlib.suppress(OSError, HTTPException):
            return _await(server)
    return _await(servers[-1])


def _await(url: str) -> None:
    """Return when the server answers.

    torchvision would wait for each address of the server, then again without TLS, and the look-up of the name has no time limit.
    A thread therefore makes the request, and is abandoned after `ANSWER_SECONDS`.
    """
    from torchvision.datasets.utils import USER_AGENT

    answer = Future[None]()

    def ask() -> None:
        try:
            urlopen(Request(url, headers={"User-Agent": USER_AGENT}), timeout=ANSWER_SECONDS).close()
        except BaseException as error:
            answer.set_exception(error)
        else:
            answer.set_result(None)

    threading.Thread(target=ask, daemon=True).start()
    try:
        answer.result(ANSWER_SECONDS)
    except TimeoutError:
        raise TimeoutError(f"timed out: no answer from {url} within {ANSWER_SECONDS:g} seconds") from None


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Redirect torchvision's messages to stderr on a terminal, and drop them elsewhere."""
    place = sys.stderr if sys.stderr.isatty() else io.StringIO()
    with contextlib.redirect_stdout(place), contextlib.redirect_stderr(place):
        yield


@contextlib.contextmanager
def _timeout(seconds: float) -> Iterator[None]:
    """Set the time-out of sockets, for which torchvision has no argument."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
