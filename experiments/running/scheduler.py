"""Several runs on the same actors: one after another, or several at once, each with its share of the actors."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.planning.plan import plan_all
from experiments.running.grids import Crew, Shelf, crews, grids
from experiments.running.progress import Quiet, Watch
from experiments.running.server_app import serve
from experiments.settings.catalogue import resolved
from experiments.settings.presets import expand as expand_method
from experiments.settings.sweep import expand
from fedsam import plugins
from fedsam.config import ConfigError, Experiment
from fedsam.results.store import Results, TakenError


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


@dataclass(frozen=True)
class Comparison:
    """What is known of the runs of a comparison, each experiment once.

    Attributes:
        outcomes: How each ended, in the order of the experiments; `finished` also if an earlier call made the run.
        runs_dir: Folder of the results.
    """

    outcomes: tuple[Outcome, ...]
    runs_dir: Path

    @property
    def run_ids(self) -> list[str]:
        """The runs that began."""
        return [outcome.run_id for outcome in self.outcomes if outcome.run_id]

    def report(self, out: Path | str | None = None, *, baseline: str | None = None, target_accuracy: float | None = None) -> Path:
        """Write the report of the runs to a folder, by default below `runs_dir`; gives its page. Options are those of `fedsam report`."""
        from experiments.reporting.report import write_report

        with Results.open(self.runs_dir, create=False) as results:
            folder = Path(out or self.runs_dir / "reports" / self.run_ids[0])
            return write_report(results, results.find(self.run_ids), folder, baseline, target_accuracy)


def compare(
    experiments: Sequence[Experiment | Mapping[str, Any]] | Mapping[str, Any], watch: Watch | None = None, *, parallel: int = 1
) -> Comparison:
    """Make the runs of experiments that have not finished yet; a failed one does not stop the others.

    Args:
        experiments: Experiments, or their plain settings; or settings with a `sweep`, such as a TOML file has.
        parallel: Runs at once, each with its share of the actors.

    Raises:
        ConfigError: A setting of any of them is wrong; nothing has started.
        DataError: A dataset cannot be had.
    """
    plugins.refresh()
    if isinstance(experiments, Mapping):
        each = expand(experiments)
    else:
        each = [one if isinstance(one, Experiment) else expand_method(one) for one in experiments]
    watch, shelf = watch or Quiet(), Shelf()
    planned = plan_all(each, shelf)
    todo = [one.experiment for one in planned if one.found is None]
    made = iter(_made(todo, shelf, watch, parallel))
    outcomes = tuple(Outcome(one.found.id, "finished") if one.found else next(made) for one in planned)
    return Comparison(outcomes, planned[0].experiment.runs_dir)


def _made(experiments: Sequence[Experiment], shelf: Shelf, watch: Watch, parallel: int) -> list[Outcome]:
    if not experiments:
        return []
    watch.plan(experiments)
    with crews(experiments, parallel, shelf) as staff:
        return perform(experiments, staff, watch, once=True)


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
