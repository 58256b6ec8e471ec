"""Which process is at a run: it alone writes the run's rounds and checkpoints, and another one can continue what it left.

The entry of a run in the database is the lock. It holds host, process id and start time of the process, and its heartbeat, by which
processes on other machines know that it is alive; what it writes after another one has taken the run is refused.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from fedsam.results.config_hash import config_hash
from fedsam.results.database import transaction
from fedsam.results.processes import process_start_time
from fedsam.results.reading import ResultsReader
from fedsam.results.rows import CONCLUDED, Run, Status
from fedsam.wording import ConfigError

CHANGED = "changed midway"  # the name, among the versions of a run, of the settings and versions that differ between its rounds


class DuplicateRunError(RuntimeError):
    """A run of the same experiment has finished, has diverged or is running.

    Attributes:
        run: That run.
    """

    def __init__(self, run: Run) -> None:
        state = f"has {run.status}" if run.status in CONCLUDED else f"is at work on {run.host}"
        super().__init__(f"run {run.id} is the same experiment: it {state}")
        self.run = run


class RunTakenError(ValueError):
    """Another process is at the run."""


class OwnedResults(ResultsReader):
    """The open results file, whose runs have a process each."""

    def continue_run(
        self, run: Run, resolved: Mapping[str, Any], versions: Mapping[str, str], changed: Sequence[str] = (), *, restart: bool = False
    ) -> None:
        """Have this process continue a run, with these settings from now on.

        Args:
            resolved: As of `start_run`.
            versions: Of this process.
            changed: What of the settings and versions is other than before and changes its numbers, which is noted among its versions:
                the run is then one of an experiment of its own.
            restart: Also if it seems to be at work on another machine.

        Raises:
            DuplicateRunError: It is at work.
        """
        changes = ", ".join(dict.fromkeys([*filter(None, [run.versions.get(CHANGED)]), *changed]))
        noted = {CHANGED: changes} if changes else {}
        sources = {name: version for name, version in versions.items() if version.startswith("sha256:")} | noted
        with transaction(self._connection) as connection:
            now = self.find_one(run.id)
            if now.status == "running" and not is_gone(now, restart):
                raise DuplicateRunError(now)
            self._take(run.id)
            values = {
                "config": json.dumps(resolved, default=str, sort_keys=True),
                "config_hash": config_hash(resolved, sources),
                "versions": json.dumps({**versions, **noted}),
            }
            for name, value in values.items():
                connection.execute(f"UPDATE runs SET {name} = ? WHERE id = ?", (value, run.id))

    def _take(self, run: str) -> None:
        """Note that this process is at the run now."""
        values = (*own_process().values(), datetime.now(UTC).timestamp(), run)
        self._connection.execute(
            "UPDATE runs SET status = 'running', error = NULL, finished = NULL, host = ?, pid = ?, born = ?, heartbeat = ? WHERE id = ?",
            values,
        )

    def check_own(self, run: str) -> None:
        """Raise `RunTakenError` unless this process is at the run: it may have been silent for so long that another one took it."""
        query = "SELECT host, pid, born FROM runs WHERE id = ? AND status = 'running'"
        found = self._connection.execute(query, (run,)).fetchone()
        if found is None or dict(found) != own_process():
            raise RunTakenError(
                f"run {run!r} is not at work in this process: it was never started, has ended, or another process has taken it"
            )

    def forget(self, name: str) -> Run:
        """Record a run as interrupted that seems to be at work, because its process on another machine is gone.

        Raises:
            ConfigError: No run, or more than one, has this id; or it is not at work, or at work on this machine.
        """
        run = self.find_one(name)
        if run.status != "running" or run.host == platform.node():
            state = "at work on this machine: end its process" if run.status == "running" else f"{run.status}, not at work"
            raise ConfigError(f"run: {name!r} is not allowed: run {run.id} is {state}")
        with transaction(self._connection):
            self._end(run.id, "interrupted", f"its process on {run.host} is gone")
        return run

    def interrupt_own(self, why: str) -> None:
        """Record the runs that this process is at as interrupted: it ends, or what is left of it writes nothing more to them."""
        with transaction(self._connection):
            for run in [run for run in self.runs() if run.status == "running"]:
                with suppress(RunTakenError):
                    self.check_own(run.id)
                    self._end(run.id, "interrupted", why)

    def _end(self, run: str, status: Status, error: str | None) -> None:
        """Note how a run has ended."""
        values = (status, error, datetime.now(UTC).isoformat(timespec="seconds"), run)
        self._connection.execute("UPDATE runs SET status = ?, error = ?, finished = ? WHERE id = ?", values)


def own_process() -> dict[str, Any]:
    """What tells this process from others."""
    return {"host": platform.node(), "pid": os.getpid(), "born": process_start_time(os.getpid())}


def is_gone(run: Run, restart: bool) -> bool:
    """Whether a run that seems to be at work is taken for gone: a user says so of those on other machines."""
    return restart and run.host != platform.node()
