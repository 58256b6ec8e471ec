"""Several runs on the same actors: one after another, or several at once, each with its share of the actors."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass

from experiments.running.grids import Crew, grids
from experiments.running.progress import Watch
from experiments.running.server_app import serve
from experiments.settings.catalogue import resolved
from fedsam import plugins
from fedsam.config import ConfigError, Experiment
from fedsam.results.store import TakenError


@dataclass(frozen=True)
class Outcome:
    """How a run of several ended: `finished`, `failed`, or `skipped` because another process had made it or is at it.

    Attributes:
        run_id: Its id in the results, or that of the other's run; None if it did not begin.
        error: Why, when it is not `finished`.
    """

    run_id: str | None
    status: str
    error: str | None = None


def run_all(experiments: Sequence[Experiment], watch: Watch) -> list[Outcome]:
    """Run experiments one after another on the same actors; a failed one does not stop the others.

    Raises:
        ConfigError: A setting of any of them is wrong; nothing has started.
        KeyboardInterrupt: The user stopped it; the rounds finished so far are kept.
    """
    plugins.refresh()
    for experiment in experiments:
        resolved(experiment)
    watch.plan(experiments)
    with grids(experiments) as crew:
        return perform(experiments, [crew], watch)


def perform(experiments: Sequence[Experiment], crews: Sequence[Crew], watch: Watch, *, once: bool = False) -> list[Outcome]:
    """Run experiments, as many at once as there are crews; how each ended, in order. A failed one does not stop the others.

    Results are the same to the bit however many run at once.

    Args:
        once: Take the place of runs of the same experiments that did not finish, and leave out what has finished or is at work.

    Raises:
        ConfigError: The examples cannot be dealt to the clients of one of them; the other runs are stopped.
        KeyboardInterrupt: The user stopped it; the rounds finished so far are kept.
    """
    if len(crews) == 1:
        return [_run(experiment, crews[0], watch, once) for experiment in experiments]
    todo, outcomes = deque(enumerate(experiments)), dict[int, Outcome]()
    turn = threading.Lock()

    def work(crew: Crew) -> None:
        while True:
            with turn:
                if not todo:
                    return
                number, experiment = todo.popleft()
            outcomes[number] = _run(experiment, crew, watch, once)

    with ThreadPoolExecutor(len(crews)) as threads:
        working = [threads.submit(work, crew) for crew in crews]
        try:
            for done in wait(working, return_when=FIRST_EXCEPTION).done:
                done.result()
        except BaseException:
            with turn:
                todo.clear()
            for crew in crews:
                crew.stop()
            raise
    return [outcomes[number] for number in range(len(experiments))]


def _run(experiment: Experiment, crew: Crew, watch: Watch, once: bool) -> Outcome:
    try:
        return Outcome(serve(experiment, *crew(experiment), watch, once=once).run_id, "finished")
    except TakenError as taken:
        watch.skipped(experiment, str(taken))
        return Outcome(taken.run.id, "skipped", str(taken))
    except Exception as error:  # recorded with the run; the other runs go on and the exit code tells
        run_id = getattr(error, "run_id", None)
        if run_id is None:
            if isinstance(error, ConfigError):
                raise
            watch.skipped(experiment, str(error))
        return Outcome(run_id, "failed", str(error))
