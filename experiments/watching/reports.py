"""Reports of runs that have ended: the one that `compare`, `run` or `report` wrote, else one that is made when somebody asks for it."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

from experiments.watching.index import open_read_only
from experiments.watching.progress import seconds_since_epoch
from fedsam.results.rows import Run
from fedsam.results.store import Results


class Reports:
    """The reports of a folder of results; those that are made are kept in a temporary folder until `close`.

    Args:
        database: The results file.
    """

    def __init__(self, database: Path) -> None:
        self._database = database
        self._temporary = tempfile.TemporaryDirectory(prefix="fedsam-watch-", ignore_cleanup_errors=True)
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="report")  # one at a time: runs need the processor
        self._made: dict[tuple[tuple[str, str | None], ...], Future[Path]] = {}

    def get(self, runs: Sequence[Run]) -> Future[Path]:
        """The page of a report on these runs; its making begins now where there is none."""
        key = tuple((run.id, run.finished) for run in runs)
        if key not in self._made:
            self._made[key] = self._worker.submit(self._find_or_make, runs, Path(self._temporary.name) / str(len(self._made)))
        return self._made[key]

    def close(self) -> None:
        """Remove what was made; a report that is being made is not waited for."""
        self._worker.shutdown(wait=False, cancel_futures=True)
        self._temporary.cleanup()

    def _find_or_make(self, runs: Sequence[Run], folder: Path) -> Path:
        from experiments.reporting.report import ReportError, write_report

        written = existing_report(self._database.parent, runs)
        if written is not None:
            return written
        with closing(open_read_only(self._database)) as connection:
            try:
                return write_report(Results(connection, self._database), runs, folder)
            except ReportError as partial:  # the page says which figures are not in it
                return partial.path


def existing_report(runs_dir: Path, runs: Sequence[Run]) -> Path | None:
    """The page of a report in the folder of results that is about exactly these runs, as they are now; None where there is none."""
    ended = max(seconds_since_epoch(run.finished or run.started) for run in runs)
    for run in runs:
        path = runs_dir / "reports" / run.id / "report.html"
        if path.is_file() and path.stat().st_mtime >= ended:
            page = path.read_text(encoding="utf-8")
            about = re.search(r"fedsam report, (\d+) run", page)
            if about and int(about[1]) == len(runs) and all(other.id in page for other in runs):
                return path
    return None
