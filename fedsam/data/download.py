"""Downloads of official files by torchvision, given up within seconds where they cannot work."""

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

ANSWER_SECONDS = 8.0  # seconds for a server to begin its answer, the search for its address included
SILENCE_SECONDS = 20.0  # seconds without a byte before a download that goes on is given up


def download(root: Path, name: str, missing: Sequence[str], servers: Sequence[str], fetch: Callable[[Path], object]) -> None:
    """Download next to the final place and move only what is missing, so that nothing is overwritten and nothing is left half done.

    Args:
        missing: Paths below `root`.
        servers: Addresses of a file, one on each server that has them.
        fetch: Downloads them to the same paths below the folder that it is given.

    Raises:
        OSError: No server answers, or one falls silent, or the disk does not take the files. Whatever else `fetch` raises is passed on.
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
    """Return when one of the servers answers. Raises the last one's `OSError` or `HTTPException` if none does."""
    for server in servers[:-1]:
        with contextlib.suppress(OSError, HTTPException):
            return _await(server)
    return _await(servers[-1])


def _await(url: str) -> None:
    """Return when the server begins to answer.

    torchvision would wait for each address that the server's name has, and then all over again without TLS; and nothing bounds the
    search for the name. So a thread asks, for which nobody waits longer than `ANSWER_SECONDS`.
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
    """Keep torchvision's messages off stdout, and its progress bar off everything but a terminal."""
    place = sys.stderr if sys.stderr.isatty() else io.StringIO()
    with contextlib.redirect_stdout(place), contextlib.redirect_stderr(place):
        yield


@contextlib.contextmanager
def _timeout(seconds: float) -> Iterator[None]:
    """Give up on a server that falls silent; torchvision has no argument for it."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
