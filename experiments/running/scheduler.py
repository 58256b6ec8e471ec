"""Several runs on the same actors: one after another, or several at once, each with its share of the actors."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Self, TypeVar, cast

from experiments.callbacks.callback import Callback
from experiments.running import run_process
from experiments.running.grids import ActorGroup, DatasetCache, grids
from experiments.running.judging import Judge
from experiments.running.run_process import ProcessLostError
from experiments.running.server_app import Continued, RunFailed, serve
from experiments.settings.catalogue import CheckedExperiment, check
from fedsam import plugins
from fedsam.config import ConfigError, Experiment
from fedsam.formatting import listed
from fedsam.grid.ray_start import WhenLost
from fedsam.results.rows import Run
from fedsam.results.store import DuplicateRunError
from fedsam.results.write_queue import StorageError

Item = TypeVar("Item")
Made = TypeVar("Made")


@dataclass(frozen=True)
class Outcome:
    """How a run of several ended: `finished`, `diverged`, `pruned`, `failed`, or `skipped`: another process had made it or is at it.

    Attributes:
        run_id: Its id in the results, or that of the other's run; None if it did not begin.
        error: Why, when it is not `finished`.
        storage: Whether that is because its results or its model could not be written.
    """

    run_id: str | None
    status: str
    error: str | None = None
    storage: bool = False

    @classmethod
    def of(cls, run: Run) -> Self:
        """That of a run in the results."""
        return cls(run.id, run.status, run.error)


def run_all(experiments: Sequence[Experiment], callback: Callback, *, once: bool = False, lost: WhenLost | None = None) -> list[Outcome]:
    """Run experiments one after another on the same actors; a failed one does not stop the others.

    Args:
        once: As of `perform`.
        lost: As of `ray_session`.

    Raises:
        ConfigError: A setting of any of them is wrong; nothing has started.
        KeyboardInterrupt: The user stopped it; the rounds finished so far are kept.
    """
    plugins.refresh()
    checked = [check(experiment) for experiment in experiments]
    callback.plan(experiments)
    cache = DatasetCache()
    callback.phase(f"loading {listed(sorted({experiment.data.source.name for experiment in experiments}))}")
    # Ray takes long to start: not where there is nothing to run on it.
    runnable = any(cache.has(experiment) for experiment in experiments)
    with grids(experiments, cache, callback.phase, lost) if runnable else nullcontext(ActorGroup(cache)) as group:
        return perform(checked, [group], callback, once=once)


def perform(
    experiments: Sequence[CheckedExperiment],
    groups: Sequence[ActorGroup],
    callback: Callback,
    *,
    once: bool = False,
    restart: bool = False,
) -> list[Outcome]:
    """Run experiments, as many at once as there are groups; how each ended, in order. A failed one does not stop the others.

    Results are the same to the bit however many run at once.

    Args:
        once: Go on with runs of the same experiments that did not finish, and leave out what has finished or is at work.
        restart: Go on also with those that seem to be at work on other machines.

    Raises:
        ConfigError: The examples cannot be partitioned over the clients of one of them; the other runs are stopped.
        KeyboardInterrupt: The user stopped it; the rounds finished so far are kept.
    """
    return side_by_side(experiments, groups, partial(carry_out, callback=callback, once=once, restart=restart))


def side_by_side(items: Sequence[Item], groups: Sequence[ActorGroup], make: Callable[[Item, ActorGroup], Made]) -> list[Made]:
    """What `make` gives for each item, in order: as many at once as there are groups, each on a group of its own.

    Where one raises an error, or the user stops it, the groups are stopped, and no further one begins.
    """
    if len(groups) == 1:
        return [make(item, groups[0]) for item in items]
    todo, made = deque(enumerate(items)), dict[int, Made]()
    turn = threading.Lock()

    def work(group: ActorGroup) -> None:
        while True:
            with turn:
                if not todo:
                    return
                number, item = todo.popleft()
            made[number] = make(item, group)

    with ThreadPoolExecutor(len(groups)) as threads:
        working = [threads.submit(work, group) for group in groups]
        try:
            for done in wait(working, return_when=FIRST_EXCEPTION).done:
                done.result()
        except BaseException:
            with turn:
                todo.clear()
            for group in groups:
                group.stop()
            raise
    return [made[number] for number in range(len(items))]


def carry_out(
    checked: CheckedExperiment,
    group: ActorGroup,
    callback: Callback,
    *,
    once: bool = False,
    restart: bool = False,
    continued: Continued | None = None,
    judge: Judge | None = None,
) -> Outcome:
    """Run one experiment; how it ended. Options are those of `serve`. Raises as `perform`."""
    try:
        if group.process is not None and continued is None:
            return cast("Outcome", group.process.make(checked.experiment, callback, judge, {"once": once, "restart": restart}))
        grid, dataset = group(checked.experiment)
        result = serve(checked, grid, dataset, callback, once=once, restart=restart, continued=continued, judge=judge)
        return Outcome(result.run_id, "finished")
    except DuplicateRunError as taken:
        callback.skipped(checked.experiment, str(taken))
        return Outcome(taken.run.id, "skipped", str(taken))
    except RunFailed as failed:  # recorded with the run; the other runs go on and the exit code tells
        return Outcome(failed.run_id, failed.status, str(failed.error), isinstance(failed.error, StorageError))
    except ProcessLostError as lost:
        if lost.run_id:
            callback.finished(lost.run_id, "failed", str(lost))
        else:
            callback.skipped(checked.experiment, str(lost))
        return Outcome(lost.run_id, "failed", str(lost))
    except ConfigError:
        raise
    except Exception as error:
        callback.skipped(checked.experiment, str(error))
        return Outcome(None, "failed", str(error), isinstance(error, StorageError))


def serve_runs(descriptor: int) -> None:
    """What the process of a `RunProcess` does, at the other end of its pipe."""
    group = ActorGroup(DatasetCache())

    def make(checked: CheckedExperiment, callback: Callback, judge: Judge | None, options: Mapping[str, bool]) -> Outcome:
        return carry_out(checked, group, callback, judge=judge, once=options["once"], restart=options["restart"])

    run_process.serve(descriptor, make)
