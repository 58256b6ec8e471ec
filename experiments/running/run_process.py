"""Processes that make whole runs on the inline grid, one run at a time each: several of them use several cores.

No message to a client leaves its process, so small models train faster than on as many actors. Over a pipe comes what the process that
starts them must know: what a `Callback` is told, rounds for a `Judge`, and how a run ended.
"""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

from experiments.callbacks.callback import EVENTS, Callback
from experiments.running.judging import Judge
from experiments.settings.catalogue import CheckedExperiment, check, sources
from fedsam import plugins
from fedsam.config import ConfigError, Experiment, parse
from fedsam.grid.process import keep_freed_memory
from fedsam.imports import ROOT
from fedsam.module_sources import Source
from fedsam.results.rows import Row

# Our packages are found in ROOT, whatever is in the working directory or on PYTHONPATH. An interrupt while they are imported says nothing.
PROGRAM = """import signal, sys
signal.signal(signal.SIGINT, signal.SIG_DFL)
sys.path.insert(0, sys.argv[1])
from experiments.running.scheduler import serve_runs
serve_runs(int(sys.argv[2]))"""

Make = Callable[[CheckedExperiment, Callback, Judge | None, Mapping[str, bool]], object]


class ProcessLostError(Exception):
    """The process of a run has ended without saying how the run did.

    Attributes:
        run_id: Of the run; None if it had not begun.
    """

    def __init__(self, text: str, run_id: str | None) -> None:
        super().__init__(text)
        self.run_id = run_id


class RunProcess:
    """A process that makes runs, one at a time; it starts with the first one."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._pipe: Connection | None = None
        self._lock = threading.Lock()
        self._stopped = False

    def make(self, experiment: Experiment, callback: Callback, judge: Judge | None, options: Mapping[str, bool]) -> Any:
        """What the other end of the pipe makes of the experiment.

        Args:
            callback: Is told of the run, in the thread that calls.
            judge: Is asked of its rounds, likewise.
            options: Further ones of the run.

        Raises:
            ConfigError: As in the process.
            KeyboardInterrupt: `stop` was called.
            ProcessLostError: The process ended before the run. The next run starts another one.
        """
        pipe, run_id = self._started(), None
        with suppress(ConnectionError):  # the next line tells that it is gone
            pipe.send((experiment.dumps(), sources(experiment, to_send=True), judge is not None, options))
        while True:
            try:
                event, *arguments = pipe.recv()
            except (EOFError, ConnectionError):
                how = self.close()
                if self._stopped:
                    raise KeyboardInterrupt from None
                raise ProcessLostError(f"the process of the run ended {how}", run_id) from None
            if event == "made":
                return arguments[0]
            if event == "refused":
                raise ConfigError(arguments[0])
            if event == "started":
                run_id = arguments[0]
            try:
                if event == "judge":
                    with suppress(ConnectionError):
                        pipe.send(_judgement(judge, *arguments))
                else:
                    getattr(callback, event)(*arguments)
            except BaseException:
                self._interrupt()
                raise

    def stop(self) -> None:
        """Interrupt the run, from any thread: its process writes a checkpoint and ends, and no other one starts."""
        with self._lock:
            if self._process is not None and not self._stopped:
                self._process.send_signal(signal.SIGINT)
            self._stopped = True

    def close(self) -> str:
        """End the process, which has no run; how it ended."""
        with self._lock:
            if self._process is None or self._pipe is None:
                return ""
            self._pipe.close()
            code = self._process.wait()
            self._process = self._pipe = None
        return f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"

    def _interrupt(self) -> None:
        """Interrupt the run from the thread that is told of it, and wait for its end; the next run starts another process."""
        with self._lock:
            if self._process is not None and not self._stopped:
                self._process.send_signal(signal.SIGINT)
            pipe = self._pipe
        with suppress(EOFError, ConnectionError):
            while pipe is not None:
                pipe.recv()  # what it says until it has ended
        self.close()

    def _started(self) -> Connection:
        """The pipe to the process."""
        with self._lock:
            if self._stopped:
                raise KeyboardInterrupt
            if self._pipe is None:
                ours, theirs = socket.socketpair()
                with theirs:
                    self._process = subprocess.Popen(
                        [sys.executable, "-P", "-c", PROGRAM, str(ROOT), str(theirs.fileno())],
                        stdin=subprocess.DEVNULL,
                        pass_fds=[theirs.fileno()],
                        process_group=0,  # Ctrl-C in a terminal comes to this process alone, which then calls `stop`
                    )
                self._pipe = Connection(ours.detach())
                with suppress(ConnectionError):
                    self._pipe.send((sys.argv, sys.orig_argv))
            return self._pipe


def serve(descriptor: int, make: Make) -> None:
    """In such a process: make the runs that are asked for, until the other end closes the pipe or interrupts."""
    pipe, known = Connection(descriptor), tuple[Source, ...]()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    keep_freed_memory()
    relay = _Relay(pipe)
    with suppress(EOFError, ConnectionError, KeyboardInterrupt):
        sys.argv, sys.orig_argv = pipe.recv()  # the command that runs are recorded with
        while True:
            settings, modules, is_judged, options = pipe.recv()
            if modules != known:
                plugins.receive(modules)
                known = modules
            try:
                checked = check(parse(json.loads(settings)))
                relay.send("made", make(checked, relay, partial(_asked, relay, pipe) if is_judged else None, options))
            except ConfigError as error:
                relay.send("refused", str(error))


def _judgement(judge: Judge | None, row: Row) -> bool | Exception:
    """What a judge says of a round, or the error that it raises."""
    try:
        return judge is not None and judge(row)
    except Exception as error:
        return error


def _asked(relay: _Relay, pipe: Connection, row: Row) -> bool:
    """The judgement of the other end. Raises as the judge there, and as `_Relay`."""
    relay.send("judge", row)
    try:
        said = pipe.recv()
    except EOFError:
        raise KeyboardInterrupt from None
    if isinstance(said, Exception):
        raise said
    return bool(said)


class _Relay(Callback):
    """Tells the other end of the pipe what it is told. Where that is gone, the run is interrupted."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe, self._lock = pipe, threading.Lock()
        for event in EVENTS:
            setattr(self, event, partial(self.send, event))

    def send(self, event: str, *arguments: object) -> None:
        try:
            with self._lock:
                self._pipe.send((event, *arguments))
        except ConnectionError:
            raise KeyboardInterrupt from None
