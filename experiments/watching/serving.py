"""Serving the live page from this process, until it is interrupted."""

from __future__ import annotations

import errno
import secrets
import socket
from collections.abc import Callable
from pathlib import Path

import uvicorn

from experiments.watching.reports import Reports
from experiments.watching.server import application
from experiments.watching.views import Views
from fedsam.grid.session import cores
from fedsam.wording import ConfigError

SHUTDOWN_SECONDS = 2  # that open windows have to take note
EVERYWHERE = ("0.0.0.0", "::", "")


class WatchServer:
    """A server of the live page that listens from the start; `run` answers.

    Args:
        folder: Of the results.
        host: Address of this machine at which it listens.
        port: 0: one that is free.

    Raises:
        ConfigError: There is no such folder, or the address or port cannot be had.
    """

    def __init__(self, folder: Path, host: str = "127.0.0.1", port: int = 0) -> None:
        if not folder.is_dir():
            raise ConfigError(f"RUNS: '{folder}' is not allowed: there is no such folder; `fedsam run` makes one, by default runs")
        self._socket = listen(host, port)
        shown = socket.getfqdn() if host in EVERYWHERE else host
        self._token = secrets.token_urlsafe(24)
        self.url = f"http://{f'[{shown}]' if ':' in shown else shown}:{self._socket.getsockname()[1]}/{self._token}/"
        self._reports: Reports | None = None
        self._server: uvicorn.Server | None = None
        self._folder = folder

    def run(self, ready: Callable[[], None] = lambda: None) -> None:
        """Answer until `stop` or a signal; `ready` is called before."""
        views = Views(self._folder, cores())
        reports = Reports(views.index.path)
        app = application(views, reports, self._token, lambda: self._server is not None and self._server.should_exit)
        config = uvicorn.Config(
            app,
            access_log=False,  # its addresses have the token
            lifespan="off",
            log_level="error",
            timeout_graceful_shutdown=SHUTDOWN_SECONDS,
            ws="none",
        )
        self._server = uvicorn.Server(config)
        try:
            ready()
            self._server.run(sockets=[self._socket])
        finally:
            reports.close()
            self._socket.close()

    def stop(self) -> None:
        """End `run`, from another thread."""
        if self._server is not None:
            self._server.should_exit = True


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens. Raises `ConfigError` where the address or port cannot be had."""
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            what = f"port: {port} is not allowed: another program listens there, perhaps another `fedsam watch`; --port 0 takes a free one"
        elif error.errno == errno.EACCES:
            what = f"port: {port} is not allowed: the system keeps it for its own programs; those from 1024 on are allowed"
        else:
            what = f"host: {host!r} is not allowed: must be an address of this machine ({error.strerror or error})"
        raise ConfigError(what) from None
    except OverflowError:
        raise ConfigError(f"port: {port} is not allowed: must be a whole number from 0 to 65535") from None
