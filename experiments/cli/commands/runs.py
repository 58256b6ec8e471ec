"""`fedsam runs`: list the runs of a database."""

from __future__ import annotations

from typing import Annotated

import typer

from experiments.cli.options import RUNS_DIR, RunsDir
from experiments.cli.output import print_table

EXAMPLES = ("fedsam runs", "fedsam runs --runs-dir /scratch/runs", "fedsam runs --forget 20260102-1530")

Forget = Annotated[
    str | None,
    typer.Option("--forget", metavar="RUN", help="Record as interrupted a run that was killed on another machine; `compare` repeats it."),
]


def command(runs_dir: RunsDir = RUNS_DIR, forget: Forget = None) -> None:
    """List the runs of a results database, oldest first."""
    from experiments.cli import console_tables
    from fedsam.results.store import Results

    with Results.open(runs_dir, create=False) as results:
        if forget is not None:
            results.forget(forget)
        print_table(console_tables.runs([(run, len(results.rounds(run.id))) for run in results.runs()]))
