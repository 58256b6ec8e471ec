"""`fedsam runs`: list the runs of a database."""

from __future__ import annotations

from experiments.cli.options import RUNS_DIR, RunsDir
from experiments.cli.output import print_table

EXAMPLES = ("fedsam runs", "fedsam runs --runs-dir /scratch/runs")


def command(runs_dir: RunsDir = RUNS_DIR) -> None:
    """List the runs of a results database, oldest first."""
    from experiments.cli import console_tables
    from fedsam.results.store import Results

    with Results.open(runs_dir, create=False) as results:
        print_table(console_tables.runs([(run, len(results.rounds(run.id))) for run in results.runs()]))
