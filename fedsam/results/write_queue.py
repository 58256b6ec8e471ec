"""Writes of a run to the results that wait in memory while the file cannot be written."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

from fedsam.results.database import held_by, is_busy

PATIENCE_SECONDS = 2.0  # of a write for a file that another process is writing, before it waits in memory
LOCKED_SECONDS, FULL_SECONDS = 3600.0, 600.0  # that the end of a run waits for a file to be free, and for space
POLL_SECONDS = 1.0  # between attempts at the end
FULL_ERRORS = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR)

Write = Callable[[sqlite3.Connection], object]


class StorageError(RuntimeError):
    """Results or a model could not be written; the message says where, why and what to do."""


class WriteQueue:
    """Makes writes in their order, each in a transaction; those that cannot be made now wait in memory for the next one.

    Args:
        connection: Is not used by others meanwhile.
        path: The file, for messages.
        warn: Is told once that writes wait, and once that they are made.
    """

    def __init__(self, connection: sqlite3.Connection, path: Path, warn: Callable[[str], None]) -> None:
        self._connection, self._path, self._warn = connection, path, warn
        self._waiting = deque[Write]()
        self._told, self._given_up = False, False

    def add(self, write: Write) -> None:
        """Make the writes that wait and this one, if that is possible now."""
        self._waiting.append(write)
        error = self._make(PATIENCE_SECONDS if len(self._waiting) == 1 else 0.0)
        if error is not None and not self._told:
            self._told = True
            self._warn(f"{self._reason(error)}: rounds wait in memory and training goes on; they are written once that is possible")

    def finish(self) -> None:
        """Wait until all writes are made, for at most `LOCKED_SECONDS` or, where there is no space, `FULL_SECONDS`.

        Raises:
            StorageError: They are not; what was written before is kept.
        """
        start, told = time.monotonic(), False
        while (error := self._make(0.0)) is not None:
            limit = LOCKED_SECONDS if is_busy(error) else FULL_SECONDS
            if self._given_up or time.monotonic() - start > limit:
                self._given_up = True  # the next call, which may record that the run failed, tries once
                raise StorageError(
                    f"{self._reason(error)}: {len(self._waiting)} writes of the run were not made within {limit:g} s; those before are kept"
                )
            if not told:
                told = True
                self._warn(f"{self._reason(error)}: the end of the run waits for it, for at most {limit:g} s")
            threading.Event().wait(POLL_SECONDS)

    def _make(self, patience: float) -> sqlite3.Error | None:
        """Make the writes that wait; the error that leaves some waiting."""
        self._connection.execute(f"PRAGMA busy_timeout = {int(1000 * patience)}")
        while self._waiting:
            try:
                self._make_next()
            except sqlite3.OperationalError as error:
                if can_be_later(error):
                    return error
                raise
            except Exception:
                self._waiting.popleft()
                raise
        if self._told:
            self._told = False
            self._warn(f"{self._path} can be written again: all rounds are in it")
        return None

    def _make_next(self) -> None:
        """Make the next write and take it off the queue. An interrupt leaves both done or neither: none is made twice."""
        written = False
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            self._waiting[0](self._connection)
            written = True
            self._connection.execute("COMMIT")
        except BaseException as error:
            if self._connection.in_transaction:  # else SQLite has rolled it back, or an interrupt came before it began or as it ended
                self._connection.execute("ROLLBACK")
            elif written and not isinstance(error, Exception):
                self._waiting.popleft()
            raise
        self._waiting.popleft()

    def _reason(self, error: sqlite3.Error) -> str:
        return reason(self._path, error)


def can_be_later(error: sqlite3.Error) -> bool:
    """Whether a write failed because another process holds the file or there is no space."""
    return is_busy(error) or getattr(error, "sqlite_errorcode", 0) & 0xFF in FULL_ERRORS


def reason(path: Path, error: sqlite3.Error) -> str:
    """Why the file cannot be written now, and what helps."""
    return f"{path} is locked{held_by(path)}" if is_busy(error) else f"{path} cannot be written ({error}; is the disk full?)"
